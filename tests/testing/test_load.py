"""Loads: reading, cutting, making them; and playing them against a simulated provider."""

from __future__ import annotations

import gzip
from collections import Counter
from pathlib import Path
from random import Random

import anyio
import openai
import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyrouter_openai.testing import ProviderSimulator
from keyrouter_openai.testing.load import Arrival, Load, bursty, read_trace
from keyrouter_openai.testing.replay import UNFINISHED, WRONG_ANSWER, Result, play

TRACE = "arrival_s,model,prompt_tokens,completion_tokens\n0.5,m,100,7\n1.0,m,10,70\n1.0,n,4,0\n61.25,m,400,70\n"


def write(path: Path, text: str | bytes) -> Path:
    path.write_bytes(gzip.compress(text.encode() if isinstance(text, str) else text))
    return path


# -- traces


def test_a_trace_is_read_with_the_means_of_the_whole_recording(tmp_path: Path) -> None:
    load = read_trace(write(tmp_path / "t.csv.gz", TRACE))
    assert load.arrivals == (Arrival(0.5, 100, 7), Arrival(1.0, 10, 70), Arrival(1.0, 4, 0), Arrival(61.25, 400, 70))
    assert load.seconds == 62
    assert load.calls_per_minute == pytest.approx(4 * 60 / 62)
    assert load.tokens_per_minute == pytest.approx((100 + 70 + 4 + 400) * 60 / 62)


HEAD = "arrival_s,prompt_tokens,completion_tokens\n"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "names no column 'arrival_s'"),
        ("arrival_s,completion_tokens\n1,2\n", "names no column 'prompt_tokens'"),
        (HEAD, "holds no request"),
        (HEAD + "soon,1,1\n", "line 2: 'soon', '1', '1' are not a time and two numbers of tokens"),
        (HEAD + "0,1,1\n1,2\n", "line 3: '1', '2', None are not"),
        (HEAD + "0,1.5,1\n", "line 2: '0', '1.5', '1' are not"),
        (HEAD + "5,1,1\n4,1,1\n", "line 3: arrival_s is 4, but must be 5 or later"),
        (HEAD + "-1,1,1\n", "line 2: arrival_s is -1, but must be 0 or later"),
        (HEAD + "nan,1,1\n", "line 2: arrival_s is nan"),
        (HEAD + "inf,1,1\n", "line 2: arrival_s is inf"),
        (HEAD + "0,0,1\n", "line 2: 0 prompt tokens and 1 completion tokens"),
        (HEAD + "0,1,-1\n", "line 2: 1 prompt tokens and -1 completion tokens"),
        (b"\xff\xfe\x00", "is not a CSV file in UTF-8"),
    ],
)
def test_what_is_wrong_with_a_trace_is_said(tmp_path: Path, text: str | bytes, problem: str) -> None:
    path = write(tmp_path / "t.csv.gz", text)
    with pytest.raises(ValueError, match=r"t\.csv\.gz: ") as caught:
        read_trace(path)
    assert problem in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "content", [b"arrival_s\n", b"", gzip.compress(b"x" * 1000, mtime=0)[:-9], b"\x1f\x8b\x08" + b"\0" * 40]
)
def test_a_file_that_is_not_gzip_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "t.csv.gz").write_bytes(content)
    with pytest.raises(ValueError, match=r"t\.csv\.gz: (is not a gzip file|its first line)"):
        read_trace(tmp_path / "t.csv.gz")


def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="cannot be read: No such file"):
        read_trace(tmp_path / "none")
    with pytest.raises(ValueError, match="cannot be read: Is a directory"):
        read_trace(tmp_path)


# -- cutting and speeding up


def test_a_window_begins_at_zero_and_keeps_the_means(tmp_path: Path) -> None:
    whole = read_trace(write(tmp_path / "t.csv.gz", TRACE))
    part = whole.window(1, 61.25)
    assert [arrival.at for arrival in part.arrivals] == [0, 0]
    assert part.seconds == 60.25
    assert (part.calls_per_minute, part.tokens_per_minute) == (whole.calls_per_minute, whole.tokens_per_minute)


@pytest.mark.parametrize(("start", "end"), [(5, 5), (6, 5), (-1, 5), (0, 63), (float("nan"), 5), (2, 60)])
def test_a_window_without_requests_is_refused(tmp_path: Path, start: float, end: float) -> None:
    with pytest.raises(ValueError, match=f"the window {start:g},{end:g}|in the window"):
        read_trace(write(tmp_path / "t.csv.gz", TRACE)).window(start, end)


@given(st.lists(st.floats(0, 99), min_size=1), st.integers(1, 120))
def test_the_busiest_window_holds_most_requests(times: list[float], seconds: int) -> None:
    load = Load.of(tuple(Arrival(at, 1, 1) for at in sorted(times)), 100)
    start, end = load.busiest(seconds)
    assert end - start == min(seconds, 100)
    counts = [sum(s <= at < s + seconds for at in times) for s in range(max(100 - seconds, 0) + 1)]
    assert len(load.window(start, end).arrivals) == max(counts) == counts[int(start)]


def test_a_faster_load_is_shorter_and_as_large(tmp_path: Path) -> None:
    whole = read_trace(write(tmp_path / "t.csv.gz", TRACE))
    fast = whole.faster(4)
    assert fast.seconds == 15.5
    assert fast.arrivals[3] == Arrival(61.25 / 4, 400, 70)
    assert fast.tokens_per_minute == whole.tokens_per_minute


# -- the made-up service


def test_the_same_seed_makes_the_same_load() -> None:
    assert bursty(Random(3)) == bursty(Random(3))
    assert bursty(Random(3)) != bursty(Random(4))


@pytest.mark.parametrize("seed", range(5))
def test_the_made_up_service_is_bursty(seed: int) -> None:
    load = bursty(Random(seed))
    times = [arrival.at for arrival in load.arrivals]
    assert times == sorted(times)
    by_second = Counter(int(at) for at in times)
    assert max(by_second.values()) > 4 * len(times) / load.seconds
    assert all(arrival.prompt_tokens >= 1 and arrival.completion_tokens >= 1 for arrival in load.arrivals)


# -- playing


def at_once(*sizes: tuple[int, int]) -> Load:
    return Load.of(tuple(Arrival(0.0, prompt, completion) for prompt, completion in sizes), 0.01)


async def test_requests_are_as_large_as_the_load_says_and_get_their_own_answers() -> None:
    load = at_once((1, 1), (1, 0), (300, 5), (20, 50), *((12, 6) for _ in range(40)))
    told: list[Result] = []
    with ProviderSimulator() as sim:
        async with openai.AsyncOpenAI(base_url=sim.url, api_key=sim.keys["account-1/key-1"]) as client:

            async def ask(prompt: str, most: int) -> str | None:
                answer = await client.chat.completions.create(
                    model="m", messages=[{"role": "user", "content": prompt}], max_tokens=most
                )
                return answer.choices[0].message.content

            results = await play(load, ask, patience=60, done=told.append)
        assert Counter(call.tokens for call in sim.calls) == Counter(arrival.charge for arrival in load.arrivals)
    assert [result.error for result in results] == [None] * 44
    assert Counter(told) == Counter(results)


async def test_an_answer_to_another_call_is_found_out() -> None:
    prompts: list[str] = []

    async def ask(prompt: str, most: int) -> str:
        prompts.append(prompt)
        return prompts[0][: most * 4]

    results = await play(at_once((50, 1), (50, 1)), ask, patience=60, done=lambda _: None)
    assert [result.error for result in results] == [None, WRONG_ANSWER]


async def test_a_call_that_fails_or_does_not_end_hinders_no_other() -> None:
    async def ask(prompt: str, most: int) -> str:
        if most == 1:
            raise openai.OpenAIError("no")
        if most == 2:
            await anyio.sleep_forever()
        return prompt[: most * 4]

    told: list[Result] = []
    results = await play(at_once((9, 1), (9, 2), (9, 3)), ask, patience=0.5, done=told.append)
    assert [result.error for result in results] == ["OpenAIError", UNFINISHED, None]
    assert results[1].seconds == pytest.approx(0.51)
    assert [result.error for result in told] == ["OpenAIError", None]


async def test_an_error_is_told_by_its_code_and_never_by_its_text() -> None:
    with ProviderSimulator() as sim:
        sim.fail("key_echo", times=1)
        sim.fail("overloaded", times=1)
        async with openai.AsyncOpenAI(base_url=sim.url, api_key="sk-canary", max_retries=0) as client:

            async def ask(prompt: str, most: int) -> str | None:
                await client.chat.completions.create(model="m", messages=[{"role": "user", "content": prompt}])
                return None

            first = await play(at_once((1, 1)), ask, patience=60, done=lambda _: None)
            second = await play(at_once((1, 1)), ask, patience=60, done=lambda _: None)
    assert [result.error for result in first + second] == ["401 invalid_api_key", "529 InternalServerError"]
