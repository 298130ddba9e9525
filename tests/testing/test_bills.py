"""What the simulated provider bills, and what its admin API says of it."""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal
from itertools import pairwise
from typing import Any

import openai
import pytest
from genai_prices import Usage, calc_price

from keyrouter_openai._sdk import httpx2
from keyrouter_openai.testing import BillLine, Latency, ProviderSimulator, SimAccount

from .conftest import FakeClock

DAY = 86_400
NOON = 20_777 * DAY + DAY // 2
TODAY = "2026-11-20"
TEXT = "The quick brown fox jumps over the lazy dog. " * 4
"""45 tokens by the simulator's rule of thumb, of a question as of its echo."""


class SetClock(FakeClock):
    """A clock that shows noon of a day."""

    def time(self) -> float:
        return NOON + self.now - 1000.0


@pytest.fixture
def clock() -> SetClock:
    return SetClock()


@pytest.fixture
def sim(clock: SetClock) -> Iterator[ProviderSimulator]:
    """Two projects of one organization, and one of another."""
    accounts = [
        SimAccount("a", keys=2, organization="acme"),
        SimAccount("b", organization="acme", price_multiplier=0.5),
        SimAccount("c", organization="other"),
    ]
    with ProviderSimulator(accounts, clock=clock) as simulator:
        yield simulator


@pytest.fixture
def client(sim: ProviderSimulator, http: httpx2.Client) -> openai.OpenAI:
    return openai.OpenAI(
        base_url=sim.url,
        api_key=sim.keys["a/key-1"],
        admin_api_key=sim.admin_keys["acme"],
        max_retries=0,
        http_client=http,
    )


def ask(client: openai.OpenAI, model: str = "gpt-4o", text: str = TEXT, **more: Any) -> Any:
    create: Any = client.chat.completions.create
    return create(model=model, messages=[{"role": "user", "content": text}], **more)


def usage(client: openai.OpenAI, **more: Any) -> list[list[dict[str, Any]]]:
    """What each bucket of the usage holds."""
    return buckets(client.admin.organization.usage.completions(start_time=NOON - NOON % DAY, **more))


def costs(client: openai.OpenAI, **more: Any) -> list[list[dict[str, Any]]]:
    return buckets(client.admin.organization.usage.costs(start_time=NOON - NOON % DAY, **more))


def buckets(page: Any) -> list[list[dict[str, Any]]]:
    return [[result.to_dict() for result in bucket.results] for bucket in page.data]


class TestTheBill:
    def test_is_the_list_price_of_what_was_served(self, sim: ProviderSimulator, client: openai.OpenAI) -> None:
        assert sim.bill() == {}
        ask(client)
        price = calc_price(Usage(input_tokens=45, output_tokens=45), "gpt-4o", provider_id="openai").total_price
        assert sim.bill() == {BillLine(TODAY, "gpt-4o", "a/key-1"): round(price * 1_000_000)}

    def test_cached_tokens_and_tiers_have_prices_of_their_own(self, clock: SetClock) -> None:
        prompt = "0123456789abcdef" * 512  # 2,048 tokens
        with (
            ProviderSimulator([SimAccount("a", cache=True)], clock=clock) as sim,
            openai.OpenAI(base_url=sim.url, api_key=sim.keys["a/key-1"]) as client,
        ):
            bills = [0]
            for tier in ("default", "default", "flex", "priority"):
                answer = ask(client, "gpt-5", prompt, max_tokens=100, service_tier=tier)
                assert answer.service_tier == tier
                bills.append(sim.bill().total())
        first, cached, flex, priority = (after - before for before, after in pairwise(bills))
        assert (first, cached) == (round(2048 * 1.25 + 100 * 10), round(2048 * 0.125 + 100 * 10))
        assert (flex, priority) == (cached // 2, cached * 2)

    def test_goes_by_the_multiplier_of_the_account(self, sim: ProviderSimulator, client: openai.OpenAI) -> None:
        ask(client)
        ask(client.with_options(api_key=sim.keys["b/key-1"]))
        mine, theirs = (sim.bill()[BillLine(TODAY, "gpt-4o", key)] for key in ("a/key-1", "b/key-1"))
        assert theirs == mine // 2

    def test_every_kind_of_call_to_a_model(self, sim: ProviderSimulator, client: openai.OpenAI) -> None:
        client.responses.create(model="gpt-4.1", input=TEXT)
        client.completions.create(model="gpt-3.5-turbo-instruct", prompt=TEXT, max_tokens=4)
        client.embeddings.create(model="text-embedding-3-small", input=TEXT)
        client.images.generate(model="gpt-image-1", prompt=TEXT, n=2)
        used = {
            "gpt-4.1": Usage(input_tokens=45, output_tokens=45),
            "gpt-3.5-turbo-instruct": Usage(input_tokens=45, output_tokens=4),
            "text-embedding-3-small": Usage(input_tokens=45),
            "gpt-image-1": Usage(input_tokens=45, output_tokens=2112),
        }
        prices = {model: calc_price(each, model, provider_id="openai").total_price for model, each in used.items()}
        assert {line.model: cost for line, cost in sim.bill().items()} == {
            model: round(price * 1_000_000) for model, price in prices.items()
        }

    def test_a_model_without_a_list_price_costs_something_too(
        self, sim: ProviderSimulator, client: openai.OpenAI
    ) -> None:
        ask(client, "made-up")
        assert sim.bill().total() == 90

    def test_what_was_refused_costs_nothing(self, sim: ProviderSimulator, client: openai.OpenAI) -> None:
        for fault in ("rate_limit", "server_error", "bad_request"):
            sim.fail(fault, times=1)
            with pytest.raises(openai.APIStatusError):
                ask(client)
        client.models.list()
        assert sim.bill() == {}

    def test_an_answer_that_nobody_read_is_billed(self, clock: SetClock) -> None:
        with (
            ProviderSimulator([SimAccount("a")], clock=clock, latency=Latency(first_byte=60.0)) as sim,
            openai.OpenAI(base_url=sim.url, api_key=sim.keys["a/key-1"], max_retries=0, timeout=0.2) as client,
        ):
            with pytest.raises(openai.APITimeoutError):
                ask(client)
            assert sim.bill().total() == round(45 * 2.5 + 45 * 10)

    def test_a_stream_is_billed_up_to_where_it_breaks(self, sim: ProviderSimulator, client: openai.OpenAI) -> None:
        whole = ask(client, stream=True)
        pieces = sum(bool(chunk.choices and chunk.choices[0].delta.content) for chunk in whole)
        bill = sim.bill().total()
        assert bill == round(45 * 2.5 + 45 * 10)
        sim.fail("stream_error", times=1, events=1)
        with pytest.raises(openai.APIError):
            list(ask(client, stream=True))
        assert sim.bill().total() - bill == round(45 * 2.5 + -(-45 // pieces) * 10)

    def test_a_stream_that_the_client_leaves_is_billed_so_far(self, clock: SetClock) -> None:
        with (
            ProviderSimulator([SimAccount("a")], clock=clock, latency=Latency(chunk=60.0)) as sim,
            openai.OpenAI(base_url=sim.url, api_key=sim.keys["a/key-1"], max_retries=0) as client,
        ):
            with ask(client, stream=True) as stream:
                next(iter(stream))
            # The first event brings no text, and the second is a minute off.
            assert sim.bill().total() == round(45 * 2.5)

    def test_it_outlasts_the_counts(self, sim: ProviderSimulator, client: openai.OpenAI) -> None:
        ask(client)
        sim.reset_counts()
        assert sim.bill().total() == 562


class TestUsage:
    def test_in_all(self, client: openai.OpenAI) -> None:
        ask(client)
        ask(client, "gpt-4o-mini")
        ((result,),) = usage(client)
        assert result["object"] == "organization.usage.completions.result"
        assert (result["input_tokens"], result["input_cached_tokens"], result["output_tokens"]) == (90, 0, 90)
        assert (result["num_model_requests"], result["model"], result["api_key_id"]) == (2, None, None)

    def test_grouped_and_filtered(self, sim: ProviderSimulator, client: openai.OpenAI) -> None:
        ask(client)
        ask(client, "gpt-4o-mini", service_tier="flex")
        ask(client.with_options(api_key=sim.keys["b/key-1"]))
        group_by = ["project_id", "api_key_id", "model", "service_tier"]
        (results,) = usage(client, group_by=group_by)
        assert [tuple(result[name] for name in group_by) for result in results] == [
            ("proj_a", "key_a_key-1", "gpt-4o", "default"),
            ("proj_a", "key_a_key-1", "gpt-4o-mini", "flex"),
            ("proj_b", "key_b_key-1", "gpt-4o", "default"),
        ]
        ((result,),) = usage(client, models=["gpt-4o"], project_ids=["proj_b"], group_by=["project_id"])
        assert (result["project_id"], result["num_model_requests"]) == ("proj_b", 1)

    def test_in_buckets_page_by_page(self, client: openai.OpenAI, clock: SetClock) -> None:
        for _ in range(3):
            ask(client)
            clock.now += DAY
        pages: list[Any] = []
        page: str | openai.Omit = openai.omit
        while not pages or pages[-1].has_more:
            found = client.admin.organization.usage.completions(
                start_time=NOON - DAY, end_time=NOON + 2 * DAY, limit=2, page=page
            )
            pages.append(found)
            page = found.next_page or openai.omit
        counts = [[len(bucket.results) for bucket in each.data] for each in pages]
        assert counts == [[0, 1], [1, 0]]  # the end is exclusive, and the third came at that very moment
        spans = [(bucket.start_time, bucket.end_time) for each in pages for bucket in each.data]
        assert all(before[1] == after[0] for before, after in pairwise(spans))
        assert spans[1][0] % DAY == 0

    def test_of_embeddings_and_images(self, client: openai.OpenAI) -> None:
        client.embeddings.create(model="text-embedding-3-small", input=TEXT)
        client.images.generate(model="gpt-image-1", prompt=TEXT, n=2)
        of = client.admin.organization.usage
        ((embeddings,),) = buckets(of.embeddings(start_time=NOON, group_by=["model"]))
        ((images,),) = buckets(of.images(start_time=NOON))
        assert (embeddings["model"], embeddings["input_tokens"]) == ("text-embedding-3-small", 45)
        assert (images["images"], images["num_model_requests"]) == (2, 1)
        assert usage(client) == [[]]

    @pytest.mark.parametrize(
        ("wrong", "says"),
        [
            ({"bucket_width": "1y"}, "use one of 1d, 1h, 1m"),
            ({"limit": 32}, "between 1 and 31"),
            ({"group_by": ["colour"]}, "Cannot group by colour: use project_id, api_key_id, model, service_tier"),
            ({"end_time": "soon"}, "expected an integer"),
        ],
    )
    def test_what_makes_no_sense(self, client: openai.OpenAI, wrong: dict[str, Any], says: str) -> None:
        with pytest.raises(openai.BadRequestError, match=says):
            usage(client, **wrong)

    def test_a_start_is_needed(self, raw: httpx2.Client, sim: ProviderSimulator) -> None:
        headers = {"Authorization": f"Bearer {sim.admin_keys['acme']}"}
        answer = raw.get("/organization/costs", headers=headers)
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, "start_time")


class TestCosts:
    def test_add_up_to_the_bill(self, sim: ProviderSimulator, client: openai.OpenAI) -> None:
        ask(client)
        ask(client.with_options(api_key=sim.keys["b/key-1"]), "gpt-4o-mini")
        ((result,),) = costs(client)
        assert result["amount"] == {"value": float(Decimal(sim.bill().total()) / 1_000_000), "currency": "usd"}

    def test_by_line_and_key(self, client: openai.OpenAI) -> None:
        ask(client)
        (results,) = costs(client, group_by=["line_item", "api_key_id"])
        assert [(each["line_item"], each["api_key_id"], each["amount"]["value"]) for each in results] == [
            ("gpt-4o, input", "key_a_key-1", 0.000112),
            ("gpt-4o, output", "key_a_key-1", 0.00045),
        ]


class TestWhoMayAsk:
    def test_an_organization_sees_its_own_alone(self, sim: ProviderSimulator, client: openai.OpenAI) -> None:
        ask(client.with_options(api_key=sim.keys["c/key-1"]))
        assert usage(client) == costs(client) == [[]]
        assert usage(client.with_options(admin_api_key=sim.admin_keys["other"])) != [[]]

    def test_projects_and_their_keys(self, sim: ProviderSimulator, client: openai.OpenAI) -> None:
        projects = client.admin.organization.projects
        assert [project.id for project in projects.list()] == ["proj_a", "proj_b"]
        keys = list(projects.api_keys.list("proj_a", limit=1))  # the SDK goes through the pages
        assert [key.id for key in keys] == ["key_a_key-1", "key_a_key-2"]
        assert keys[0].redacted_value == f"sk-...{sim.keys['a/key-1'][-4:]}"
        assert list(projects.api_keys.list("proj_c")) == []

    def test_no_other_key_will_do(self, sim: ProviderSimulator, client: openai.OpenAI) -> None:
        with pytest.raises(openai.PermissionDeniedError, match="Use an admin key"):
            usage(client.with_options(admin_api_key=sim.keys["a/key-1"]))
        with pytest.raises(openai.AuthenticationError):
            usage(client.with_options(admin_api_key="sk-admin-unknown"))
        with pytest.raises(openai.AuthenticationError):
            ask(client.with_options(api_key=sim.admin_keys["acme"]))


def test_a_multiplier_below_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="price_multiplier is -1"):
        ProviderSimulator([SimAccount("a", price_multiplier=-1)])
