"""The simulator as a server: counting, changing things while it runs, load, and a clean end."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import socket
import subprocess
import sys
import threading

import openai
import pytest

from keyrouter_openai._sdk import httpx2
from keyrouter_openai.testing import Latency, ProviderSimulator, SimAccount

from .conftest import FakeClock


def ask(client: openai.OpenAI, text: str = "hi", **more: str) -> str | None:
    answer = client.chat.completions.create(model="m", messages=[{"role": "user", "content": text}], extra_headers=more)
    return answer.choices[0].message.content


def address(sim: ProviderSimulator) -> tuple[str, int]:
    parts = httpx2.URL(sim.url)
    assert parts.port
    return parts.host, parts.port


def server_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "provider-simulator"]


def test_the_default_is_one_key_without_limits() -> None:
    with ProviderSimulator() as sim:
        (label,) = sim.keys
        assert label == "account-1/key-1"
        with openai.OpenAI(base_url=sim.url, api_key=sim.keys[label], max_retries=0) as client:
            assert ask(client) == "hi"
        assert sim.by_key() == {"account-1/key-1": 1}


def test_every_request_is_on_record(sim: ProviderSimulator, client: openai.OpenAI, clock: FakeClock) -> None:
    headers = {"OpenAI-Organization": "org-a", "OpenAI-Project": "proj_a", "Idempotency-Key": "once"}
    ask(client, "0123456789" * 10, **headers)
    (call,) = sim.calls
    assert (call.key, call.account, call.method, call.path) == ("a/key-1", "a", "POST", "/v1/chat/completions")
    assert (call.model, call.stream, call.status, call.fault, call.tokens) == ("m", False, 200, None, 25)
    assert (call.organization, call.project) == ("org-a", "proj_a")
    assert (call.retry_count, call.idempotency_key, call.authorized) == ("0", "once", True)
    assert call.at == clock.time()
    assert b"0123456789" in call.body
    assert sim.keys["a/key-1"] not in repr(sim.calls)


def test_requests_are_counted_by_any_mark(sim: ProviderSimulator, client: openai.OpenAI) -> None:
    ask(client)
    ask(client.with_options(api_key=sim.keys["b/key-1"]))
    client.models.list()
    with pytest.raises(openai.AuthenticationError):
        ask(client.with_options(api_key="unknown"))
    assert sim.by_key() == {"a/key-1": 2, "a/key-2": 0, "b/key-1": 1}
    assert (sim.count(), sim.count(key="a/key-1"), sim.count(account="b")) == (4, 2, 1)
    assert (sim.count(status=200), sim.count(status=401), sim.count(path="/v1/models")) == (3, 1, 1)
    assert (sim.count(model="m"), sim.count(account="a", path="/v1/models")) == (3, 1)
    assert sim.calls[-1].key is None
    sim.reset_counts()
    assert (sim.count(), sim.calls) == (0, [])


def test_keys_can_be_revoked_and_restored(sim: ProviderSimulator, client: openai.OpenAI) -> None:
    sim.revoke("a/key-1")
    with pytest.raises(openai.AuthenticationError) as caught:
        ask(client)
    assert caught.value.code == "invalid_api_key"
    assert sim.keys["a/key-1"] not in str(caught.value)
    assert sim.count(key="a/key-1", status=401) == 1, "it is still known whose key it was"
    assert ask(client.with_options(api_key=sim.keys["a/key-2"])) == "hi"
    sim.restore("a/key-1")
    assert ask(client) == "hi"


def test_credit_runs_out_and_is_refilled(sim: ProviderSimulator, client: openai.OpenAI) -> None:
    sim.set_credit("a", calls=2)
    ask(client)
    ask(client)
    assert sim.accounts["a"].credit_calls == 0
    with pytest.raises(openai.RateLimitError) as caught:
        ask(client)
    assert caught.value.code == "insufficient_quota"
    assert not any(name.startswith(("x-ratelimit", "retry")) for name in caught.value.response.headers)
    sim.set_credit("a", tokens=2)
    ask(client)  # one token for the prompt, one for the answer
    with pytest.raises(openai.RateLimitError):
        ask(client)
    sim.set_credit("a")
    ask(client)


def test_limits_refill_with_the_clock_that_was_handed_in(
    sim: ProviderSimulator, client: openai.OpenAI, clock: FakeClock
) -> None:
    sim.set_limits("a", rpm=2, tpm=None)
    ask(client)
    ask(client)
    with pytest.raises(openai.RateLimitError, match="Please try again in 30s"):
        ask(client)
    clock.now += 30.0
    ask(client)
    with pytest.raises(ValueError, match="rpm is 0"):
        sim.set_limits("a", rpm=0, tpm=1)
    assert (sim.accounts["a"].rpm, sim.accounts["a"].tpm) == (2, None)


def test_another_application_can_use_an_account(
    sim: ProviderSimulator, client: openai.OpenAI, clock: FakeClock
) -> None:
    sim.set_limits("a", rpm=60, tpm=None)
    sim.drain("a", "m", requests=60)
    with pytest.raises(openai.RateLimitError, match="Please try again in 1s"):
        ask(client)
    clock.now += 1.0
    ask(client)
    with pytest.raises(ValueError, match="no account 'x'"):
        sim.drain("x", "m", tokens=1)


def test_a_call_takes_its_place_until_its_answer_ends(clock: FakeClock, http: httpx2.Client) -> None:
    account = SimAccount("a", concurrent=1, otpm=60)
    with ProviderSimulator([account], latency=Latency(first_byte=0.02), clock=clock) as sim:
        client = openai.OpenAI(base_url=sim.url, api_key=sim.keys["a/key-1"], max_retries=0, http_client=http)
        ask(client, "x" * 4 * 60)
        with pytest.raises(openai.RateLimitError, match="Too many concurrent requests"):
            ask(client)
        clock.now += 0.021
        with pytest.raises(openai.RateLimitError, match=r"on output tokens per min \(OTPM\): Limit 60, Used 60"):
            ask(client)
        clock.now += 1.0
        ask(client)


def test_dates_in_headers_count_from_the_date_of_the_answer(clock: FakeClock, http: httpx2.Client) -> None:
    clock.now = 5.0
    with ProviderSimulator([SimAccount("a", rpm=6, headers="anthropic")], clock=clock) as sim:
        client = openai.OpenAI(base_url=sim.url, api_key=sim.keys["a/key-1"], max_retries=0, http_client=http)
        headers = client.models.with_raw_response.list().headers
        assert headers["date"] == "Fri, 15 Jan 2027 08:00:05 GMT"
        create = client.embeddings.with_raw_response.create
        assert create(model="m", input="x").headers["anthropic-ratelimit-requests-reset"] == "2027-01-15T08:00:15Z"


def test_usage_says_what_was_cached(http: httpx2.Client) -> None:
    with ProviderSimulator([SimAccount("a", itpm=4000, cache=True), SimAccount("b")]) as sim:
        client = openai.OpenAI(base_url=sim.url, api_key=sim.keys["a/key-1"], max_retries=0, http_client=http)
        system = "s" * 4 * 1024

        def cached(question: str, client: openai.OpenAI = client, model: str = "m") -> int:
            answer = client.chat.completions.create(
                model=model,
                messages=[{"role": "system", "content": system}, {"role": "user", "content": question}],
            )
            assert answer.choices[0].message.content == question
            assert answer.usage and answer.usage.prompt_tokens_details
            return answer.usage.prompt_tokens_details.cached_tokens or 0

        quoting = '"cached_tokens":0'
        assert [cached("first"), cached(quoting), cached("third", model="other")] == [0, 1024, 0]
        assert cached("hi", client.with_options(api_key=sim.keys["b/key-1"])) == 0, "it caches nothing"

        response = client.responses.create(model="m", instructions=system, input="x" * 2048)
        assert response.usage and response.usage.input_tokens_details.cached_tokens == 1024
        with client.responses.stream(model="m", instructions=system, input="x" * 2048) as stream:
            response = stream.get_final_response()
        assert response.usage and response.usage.input_tokens_details.cached_tokens == 1536
        for _ in range(10):
            cached("again")  # 1027 tokens each, of which the limit of input tokens is charged 3


def test_time_can_pass_faster(clock: FakeClock) -> None:
    with (
        ProviderSimulator([SimAccount("a", rpm=1)], time_scale=60, clock=clock) as sim,
        openai.OpenAI(base_url=sim.url, api_key=sim.keys["a/key-1"], max_retries=0) as client,
    ):
        ask(client)
        with pytest.raises(openai.RateLimitError, match="Please try again in 1s"):
            ask(client)
        clock.now += 1.0
        ask(client)


def test_latency_shows_in_the_processing_time() -> None:
    latency = Latency(first_byte=0.6, tokens_per_second=10)
    with (
        ProviderSimulator(latency=latency, time_scale=60) as sim,
        openai.OpenAI(base_url=sim.url, api_key=sim.keys["account-1/key-1"], max_retries=0) as client,
    ):
        answer = client.chat.completions.with_raw_response.create(
            model="m", messages=[{"role": "user", "content": "x" * 24}]
        )
        assert answer.headers["openai-processing-ms"] == "20", "(0.6 s and 6 tokens at 10/s) / 60"
        client.models.list()


def test_streams_keep_their_pace() -> None:
    hour = Latency(chunk=3600.0)
    with (
        ProviderSimulator(latency=hour) as sim,
        openai.OpenAI(base_url=sim.url, api_key=sim.keys["account-1/key-1"], max_retries=0, timeout=0.05) as client,
        client.responses.create(model="m", input="hi", stream=True) as stream,
    ):
        assert next(stream).type == "response.created"
        with pytest.raises((openai.APITimeoutError, httpx2.ReadTimeout)):  # the latter in earlier versions of the SDK
            next(stream)


def test_the_first_byte_keeps_them_waiting() -> None:
    with (
        ProviderSimulator(latency=Latency(first_byte=3600.0)) as sim,
        openai.OpenAI(base_url=sim.url, api_key=sim.keys["account-1/key-1"], max_retries=0, timeout=0.05) as client,
    ):
        with pytest.raises(openai.APITimeoutError):
            ask(client)
        client.models.list()


def test_two_simulators_with_one_seed_answer_alike(clock: FakeClock) -> None:
    def answer() -> str:
        with ProviderSimulator(seed=7, clock=clock) as sim:
            headers = {"Authorization": f"Bearer {sim.keys['account-1/key-1']}"}
            body = {"model": "m", "input": "hi"}
            got = httpx2.post(f"{sim.url}/responses", json=body, headers=headers)
            return got.headers["x-request-id"] + got.text

    assert answer() == answer()


async def test_a_thousand_connections_at_once_each_get_their_own_answer() -> None:
    async with ProviderSimulator([SimAccount("a", keys=4)]) as sim:
        secrets = list(sim.keys.values())
        opened = await asyncio.gather(*(asyncio.open_connection(*address(sim)) for _ in range(1000)))

        async def call(number: int) -> str:
            reader, writer = opened[number]
            body = json.dumps({"model": "m", "input": f"call {number}"})
            writer.write(
                f"POST /v1/responses HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {len(body)}\r\n"
                f"Authorization: Bearer {secrets[number % 4]}\r\n\r\n{body}".encode()
            )
            answer = await reader.read()
            writer.close()
            await writer.wait_closed()
            return json.loads(answer.partition(b"\r\n\r\n")[2])["output"][0]["content"][0]["text"]

        texts = await asyncio.gather(*(call(number) for number in range(1000)))
        assert texts == [f"call {number}" for number in range(1000)]
        assert sim.by_key() == {f"a/key-{number}": 250 for number in range(1, 5)}


async def test_it_takes_the_sdks_async_client_and_streams_at_once() -> None:
    async with (
        ProviderSimulator() as sim,
        openai.AsyncOpenAI(base_url=sim.url, api_key=sim.keys["account-1/key-1"], max_retries=0) as client,
    ):

        async def call(number: int) -> str:
            async with client.responses.stream(model="m", input=f"call {number}") as stream:
                return (await stream.get_final_response()).output_text

        assert await asyncio.gather(*(call(number) for number in range(50))) == [
            f"call {number}" for number in range(50)
        ]


def test_big_bodies(client: openai.OpenAI, sim: ProviderSimulator) -> None:
    content = bytes(range(256)) * 40_000  # 10 MB
    made = client.files.create(file=content, purpose="batch")
    assert client.files.content(made.id).content == content


def exchange(sim: ProviderSimulator, request: bytes) -> bytes:
    """All that comes back to raw bytes on one connection."""
    with socket.create_connection(address(sim), timeout=5) as sock:
        sock.sendall(request)
        sock.shutdown(socket.SHUT_WR)
        return b"".join(iter(lambda: sock.recv(65536), b""))


def test_connections_are_kept_and_requests_may_follow_at_once(sim: ProviderSimulator) -> None:
    head = f"GET /v1/models HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {sim.keys['b/key-1']}\r\n\r\n".encode()
    assert exchange(sim, head * 3).count(b"HTTP/1.1 200") == 3


def test_clients_that_ask_before_sending_a_body_are_told_to_go_on(sim: ProviderSimulator) -> None:
    head = b"POST /v1/responses HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n"
    with socket.create_connection(address(sim), timeout=5) as sock:
        sock.sendall(head)
        assert sock.recv(65536).startswith(b"HTTP/1.1 100")
        sock.sendall(b"{}")
        assert sock.recv(65536).startswith(b"HTTP/1.1 401")


@pytest.mark.parametrize("request_", [b"", b"nonsense\r\n\r\n", b"POST /v1/responses HTTP/1.1\r\nHost: x\r\n"])
def test_what_is_not_http_does_no_harm(sim: ProviderSimulator, client: openai.OpenAI, request_: bytes) -> None:
    assert exchange(sim, request_) == b""
    assert ask(client) == "hi"


def test_an_outage_drops_and_refuses_connections(sim: ProviderSimulator, client: openai.OpenAI) -> None:
    url = sim.url
    ask(client)
    with sim.unreachable():
        with pytest.raises(openai.APIConnectionError):
            ask(client)
        with pytest.raises(httpx2.ConnectError):
            httpx2.get(f"{url}/models")
    assert sim.url == url
    assert ask(client) == "hi"
    assert sim.count() == 2


def test_nothing_is_left_behind_even_of_connections_that_hang() -> None:
    held: list[socket.socket] = []
    before = set(threading.enumerate())
    with ProviderSimulator() as sim:
        sim.fail("hang")
        for _ in range(20):
            held.append(socket.create_connection(address(sim), timeout=5))
            held[-1].sendall(b"GET /v1/models HTTP/1.1\r\nHost: x\r\n\r\n")
        with pytest.raises(httpx2.TimeoutException):
            httpx2.get(f"{sim.url}/models", timeout=0.05)
    for sock in held:
        with sock, contextlib.suppress(ConnectionResetError):
            assert sock.recv(1) == b""
    assert server_threads() == []
    assert not set(threading.enumerate()) - before, "an older thread may end meanwhile, none may be new"
    gc.collect()  # an unclosed socket or loop would be a warning now, and warnings are errors


def test_it_can_be_entered_again(client: openai.OpenAI) -> None:
    sim = ProviderSimulator()
    for _ in range(2):
        with sim:
            assert ask(client.with_options(base_url=sim.url, api_key=sim.keys["account-1/key-1"])) == "hi"
    assert sim.count() == 2


def test_it_runs_once_at_a_time(sim: ProviderSimulator) -> None:
    with pytest.raises(RuntimeError, match="running already"), sim:
        pass
    with pytest.raises(RuntimeError, match="not running"), ProviderSimulator().unreachable():
        pass


def test_a_taken_port_is_an_error_that_leaves_nothing_behind(sim: ProviderSimulator) -> None:
    _, port = address(sim)
    before = set(threading.enumerate())
    with pytest.raises(OSError, match="address already in use"), ProviderSimulator(port=port):
        pass
    assert not set(threading.enumerate()) - before, "an older thread may end meanwhile, none may be new"


def test_a_time_scale_must_be_above_zero() -> None:
    with pytest.raises(ValueError, match="time_scale is 0"):
        ProviderSimulator(time_scale=0)


def test_it_does_not_import_the_sdk_and_the_package_does_not_import_it() -> None:
    check = (
        "import sys, keyrouter_openai; assert 'keyrouter_openai.testing' not in sys.modules;"
        "import keyrouter_openai.testing; assert 'openai' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", check], check=True, timeout=30)
