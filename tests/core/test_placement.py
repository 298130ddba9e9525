"""Where a call goes if accounts' limits are of different shape."""

from __future__ import annotations

from collections import Counter
from random import Random

import pytest

from keyrouter_openai import Key
from keyrouter_openai.core.buckets import Bucket
from keyrouter_openai.core.model import MINUTE, Dimension, Estimate, Fault, Outcome, RouteRequest
from keyrouter_openai.core.placement import Placement
from keyrouter_openai.core.queue import Turn
from keyrouter_openai.core.quota import Quota
from keyrouter_openai.core.select import History
from keyrouter_openai.keys import Limits
from keyrouter_openai.lease import Lease
from keyrouter_openai.router import Router
from keyrouter_openai.testing.virtual import VirtualTime

FEW_TOKENS, FEW_REQUESTS = Limits(rpm=1200, tpm=120_000), Limits(rpm=60, tpm=1_200_000)
SMALL, LARGE = 100, 20_000


def request(tokens: int) -> RouteRequest:
    return RouteRequest("", "/chat/completions", "gpt-4o", estimate=lambda: Estimate(tokens, 0))


class Pool:
    """A router over accounts with these limits, and a count of who was served where."""

    def __init__(self, **limits: Limits) -> None:
        keys = [Key(name=n, secret=f"sk-{n}", account=n, limits={"*": limit}) for n, limit in limits.items()]
        self.time = VirtualTime()
        self.router = Router(keys, clock=self.time, rng=Random(1))
        self.served = Counter[tuple[str, int]]()

    def send(self, tokens: int) -> None:
        """Make a call that must not wait."""
        taken = self.router.acquire(request(tokens), History(), number=1, max_wait=0.0)
        if isinstance(taken, Lease):
            self.served[taken.key.name, tokens] += 1
            self.router.settle(taken, Outcome(Fault.NONE, 200), started_at=self.time.time(), waited_s=0.0)

    def wait(self, tokens: int) -> object:
        """Make a call that may wait."""
        return self.router.acquire(request(tokens), History(), number=1, max_wait=30.0)

    def play(self, small: int, large: int, seconds: int) -> None:
        """Make so many calls of either size each second, one after the other."""
        for second in range(seconds):
            calls = [(second + n / small, SMALL) for n in range(small)]
            calls += [(second + n / large, LARGE) for n in range(large)]
            for at, tokens in sorted(calls):
                self.time.now = at
                self.send(tokens)


def test_what_only_good_placement_can_serve_is_served() -> None:
    pool = Pool(small=FEW_TOKENS, large=FEW_REQUESTS)
    pool.play(small=19, large=1, seconds=300)  # 95 % of the calls and tokens that the two accounts refill
    assert sum(pool.served.values()) == 300 * 20
    assert pool.served["large", LARGE] > 0.95 * 300
    assert pool.served["small", SMALL] > 0.95 * 300 * 19


def test_accounts_of_one_shape_share_calls_of_all_sizes_alike() -> None:
    pool = Pool(one=Limits(rpm=600, tpm=600_000), other=Limits(rpm=300, tpm=300_000))
    pool.play(small=14, large=1, seconds=120)
    assert pool.served["one", SMALL] == pytest.approx(2 * pool.served["other", SMALL], rel=0.1)


def test_a_call_that_cannot_wait_goes_wherever_it_can_start() -> None:
    pool = Pool(small=FEW_TOKENS, large=FEW_REQUESTS)
    pool.play(small=25, large=1, seconds=300)  # more small calls than the one account has tokens for
    used_up = pool.served["small", SMALL]
    pool.send(SMALL)
    pool.send(SMALL)
    assert pool.served["small", SMALL] + pool.served["large", SMALL] >= used_up + 2


def test_calls_wait_for_the_account_that_suits_them_and_hold_up_none_of_another_size() -> None:
    pool = Pool(small=FEW_TOKENS, large=FEW_REQUESTS)
    pool.play(small=19, large=1, seconds=60)
    while isinstance(taken := pool.wait(LARGE), Lease):
        pass
    assert isinstance(taken, Turn)
    before = pool.served.total()
    pool.send(SMALL)
    assert pool.served.total() == before + 1


@pytest.mark.parametrize(
    ("limits", "matters"),
    [
        ([(600, 600_000), (60, 60_000)], False),
        ([(600, 600_000), (600, 300_000)], True),
    ],
)
def test_placement_matters_where_shapes_differ(limits: list[tuple[float, float]], *, matters: bool) -> None:
    placement = Placement()
    for rpm, tpm in limits:
        placement.learn(quota(rpm, tpm))
    assert placement.matters is matters


def test_what_is_used_of_a_limit_relative_to_what_is_left_is_its_price() -> None:
    placement, account = Placement(), quota(100, 100_000)
    placement.granted(account, (1.0, 1000.0))
    assert placement.cost(account, (1.0, 1000.0), 0.0) == 0.0
    account.take((80.0, 0.0), 0.0)
    few_requests = placement.cost(account, (1.0, 1000.0), 0.0)
    assert placement.cost(account, (1.0, 9000.0), 0.0) == few_requests > 0.0
    account.take((0.0, 80_000.0), 0.0)
    assert placement.cost(account, (1.0, 9000.0), 0.0) == pytest.approx(10.0 * few_requests)
    assert placement.cost(account, (1.0, 9000.0), 60.0) == 0.0


def quota(rpm: float, tpm: float) -> Quota:
    made = Quota("gpt-4o", "openai", 0.0)
    made.add(Bucket(Dimension.REQUESTS, MINUTE, rpm, 0.0))
    made.add(Bucket(Dimension.TOKENS, MINUTE, tpm, 0.0))
    return made
