"""How the accounts that can serve a model are compared, closed and opened again."""

from __future__ import annotations

from collections import Counter
from random import Random

import pytest

from keyrouter_openai.core.buckets import Bucket
from keyrouter_openai.core.candidate import Choice
from keyrouter_openai.core.lanes import Lane
from keyrouter_openai.core.model import MINUTE, Dimension, Estimate, Fault, RouteRequest
from keyrouter_openai.core.select import History
from keyrouter_openai.core.standing import Unit
from keyrouter_openai.core.state import AccountState, HostState, KeyState

HOST = HostState("https://api.openai.com/v1")


class Accounts:
    """A lane, and chance."""

    def __init__(self, *weights: float, keys: int = 1, rpm: float | None = None, tpm: float | None = None) -> None:
        self.lane = Lane("gpt-4o", "gpt-4o", frozenset(), Unit())
        self.rng = Random(1)
        self.accounts: list[AccountState] = []
        for number, weight in enumerate(weights):
            self.add(f"A{number}", weight, keys=keys, rpm=rpm, tpm=tpm)

    def add(
        self, name: str, weight: float = 1.0, *, keys: int = 1, rpm: float | None = None, tpm: float | None = None
    ) -> AccountState:
        account = AccountState(name)
        self.accounts.append(account)
        quota = account.quota("gpt-4o", "openai", 0.0)
        quota.known = True
        for dimension, limit in ((Dimension.REQUESTS, rpm), (Dimension.TOKENS, tpm)):
            if limit is not None:
                quota.add(Bucket(dimension, MINUTE, limit, 0.0))
        for number in range(keys):
            key = KeyState(f"{name}-{number}", "openai", account, HOST, weight)
            self.lane.add(key, account, HOST, quota, self.rng)
        return account

    def choose(self, now: float = 0.0, *, tokens: int = 1, tried: str = "") -> Choice | None:
        history = History()
        if tried:
            history.add(f"{tried}-0", tried, HOST.name, Fault.SERVER_ERROR)
        request = RouteRequest("r", "/chat/completions", "gpt-4o", estimate=lambda: Estimate(tokens))
        return self.lane.choose(request, history, now, self.rng, None)

    def take(self, now: float = 0.0, *, tokens: int = 1) -> str | None:
        """The account that a call is sent to now."""
        choice = self.choose(now, tokens=tokens)
        if choice is None or choice.start > now:
            return None
        choice.candidate.quota.take(choice.amounts, now)
        self.lane.granted(choice, self.rng)
        return choice.candidate.name


def test_accounts_are_used_by_weight_and_not_by_the_number_of_their_keys() -> None:
    accounts = Accounts(1.0, 3.0)
    accounts.add("many", keys=20)
    counts = Counter(accounts.take() for _ in range(500))
    assert [counts[name] for name in ("A0", "A1", "many")] == pytest.approx([100, 300, 100], abs=8)


def test_the_keys_of_an_account_are_used_alike() -> None:
    accounts = Accounts(1.0, keys=5)
    counts: Counter[str] = Counter()
    for _ in range(100):
        choice = accounts.choose()
        assert choice is not None
        accounts.lane.granted(choice, accounts.rng)
        counts[choice.key.name] += 1
    assert list(counts.values()) == pytest.approx([20] * 5, abs=2)


def test_accounts_are_used_in_proportion_to_their_limits() -> None:
    accounts = Accounts()
    accounts.add("small", rpm=100)
    accounts.add("large", rpm=900)
    counts = Counter(accounts.take() for _ in range(500))
    assert counts["large"] == pytest.approx(450, abs=10)


def test_who_comes_back_is_not_flooded_to_make_up_for_its_absence() -> None:
    accounts = Accounts(1.0, 1.0)
    away = next(c for c in accounts.lane.candidates.values() if c.name == "A0")
    accounts.lane.close(away, 10.0)
    assert {accounts.take(1.0) for _ in range(100)} == {"A1"}
    counts = Counter(accounts.take(10.0) for _ in range(20))
    assert counts["A0"] == pytest.approx(10, abs=2)


def test_an_account_that_is_closed_opens_in_time() -> None:
    accounts = Accounts(1.0)
    (candidate,) = accounts.lane.candidates.values()
    accounts.lane.close(candidate, 20.0)
    accounts.lane.close(candidate, 10.0)
    assert (accounts.lane.opens_at(), accounts.take(9.9)) == (10.0, None)
    assert accounts.take(10.0) == "A0"


def test_what_has_been_tried_comes_last() -> None:
    accounts = Accounts(*[1.0] * 3)
    for _ in range(20):
        choice = accounts.choose(tried="A1")
        assert choice is not None and choice.candidate.name != "A1"


def test_the_one_account_with_room_is_found_among_many() -> None:
    accounts = Accounts(*[1.0] * 50, rpm=1)
    accounts.add("room", rpm=1000)
    names = [accounts.take() for _ in range(500)]
    assert None not in names[:400] and names.count("room") >= 300


def test_if_none_can_start_now_the_one_is_chosen_that_can_start_first() -> None:
    accounts = Accounts()
    for name, rpm in (("slow", 6), ("fast", 60), ("middling", 30)):
        accounts.add(name, rpm=rpm)
        accounts.accounts[-1].quotas["gpt-4o"].buckets[0].take(rpm, 0.0)
    choice = accounts.choose()
    assert choice is not None and choice.candidate.name == "fast"
    assert choice.start == pytest.approx(1.6)


def test_a_request_above_a_whole_limit_goes_to_a_larger_account() -> None:
    accounts = Accounts()
    accounts.add("small", tpm=1_000)
    accounts.add("large", tpm=100_000)
    assert {accounts.take(tokens=5_000) for _ in range(10)} == {"large"}
    assert Accounts(1.0, tpm=1_000).choose(tokens=5_000) is None


def test_the_wait_for_a_backlog_is_by_requests_or_tokens_whichever_is_longer() -> None:
    lane = Accounts(1.0, 1.0, rpm=60, tpm=60_000).lane
    for now in (0.0, 0.1, 1.0, 1.1):
        assert lane.backlog.waits(lane.candidates.values(), 10, 1_000_000, now) == pytest.approx(500.0)
        assert lane.backlog.waits(lane.candidates.values(), 100, 1, now) == pytest.approx(50.0)
