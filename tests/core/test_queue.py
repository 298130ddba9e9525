"""The order of those that wait: fair between tenants, first come first served within one, batch work last."""

from __future__ import annotations

from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st

from keyrouter_openai.core.lanes import Lane
from keyrouter_openai.core.model import RouteRequest
from keyrouter_openai.core.queue import FairQueue, Turn
from keyrouter_openai.core.select import History
from keyrouter_openai.core.standing import Unit

LANE = Lane("gpt-4o", "gpt-4o", frozenset(), Unit())


def join(queue: FairQueue, tenant: str = "", *, weight: float = 1.0, urgent: bool = True, work: float = 1.0) -> Turn:
    request = RouteRequest(id="r", endpoint="/chat/completions", tenant=tenant, urgent=urgent)
    turn = Turn(request, History(), 1, 0.0, 100.0, LANE)
    turn.work = work
    queue.push(turn, weight)
    return turn


def serve(queue: FairQueue) -> Turn:
    turn = queue.pop()
    assert turn is not None
    queue.served(turn)
    return turn


def served_before(queue: FairQueue, turn: Turn) -> int:
    """How many go before a call."""
    count = 0
    while serve(queue) is not turn:
        count += 1
    return count


@settings(derandomize=True, max_examples=30, deadline=None)
@given(st.integers(1, 5), st.integers(1, 5), st.integers(1, 60))
def test_two_tenants_that_always_wait_are_served_by_weight(one: int, other: int, calls: int) -> None:
    queue = FairQueue()
    weights = {"one": one, "other": other}
    for tenant, weight in weights.items():
        for _ in range(2):
            join(queue, tenant, weight=weight)
    counts = dict.fromkeys(weights, 0)
    for _ in range(calls):
        tenant = serve(queue).request.tenant
        counts[tenant] += 1
        join(queue, tenant, weight=weights[tenant])
        ahead = counts["one"] / one - counts["other"] / other
        assert abs(ahead) <= 1 / one + 1 / other


@settings(derandomize=True, max_examples=20, deadline=None)
@given(st.integers(0, 2**32))
def test_shares_are_of_work_and_not_of_calls(seed: int) -> None:
    rng = Random(seed)
    queue, done = FairQueue(), {"large": 0.0, "small": 0.0}

    def one_more(tenant: str) -> None:
        join(queue, tenant, work=rng.uniform(50, 100) if tenant == "large" else rng.uniform(1, 5))

    for tenant in done:
        one_more(tenant)
        one_more(tenant)
    for _ in range(200):
        turn = serve(queue)
        done[turn.request.tenant] += turn.work
        one_more(turn.request.tenant)
        assert abs(done["large"] - done["small"]) <= 200


def test_the_call_of_a_light_tenant_passes_a_flood() -> None:
    queue = FairQueue()
    for _ in range(1000):
        join(queue, "flood")
    for _ in range(5):
        serve(queue)
    assert served_before(queue, join(queue, "light")) <= 1


def test_a_tenants_own_calls_go_first_come_first_served() -> None:
    queue = FairQueue()
    turns = [join(queue, work=work) for work in (5.0, 1.0, 3.0)]
    assert [serve(queue) for _ in turns] == turns


def test_batch_work_goes_after_all_that_is_interactive() -> None:
    queue = FairQueue()
    batch = join(queue, "a", urgent=False)
    interactive = [join(queue, tenant) for tenant in ("a", "b", "b", "b")]
    assert {serve(queue) for _ in interactive} == set(interactive)
    assert serve(queue) is batch


def test_batch_work_that_waits_is_not_held_against_its_tenants_interactive_calls() -> None:
    queue = FairQueue()
    for _ in range(100):
        join(queue, "a", urgent=False)
        join(queue, "b")
    assert served_before(queue, join(queue, "a")) <= 1


def test_who_leaves_unserved_has_used_nothing() -> None:
    queue = FairQueue()
    for _ in range(100):
        join(queue, "b")
    for turn in [join(queue, "a") for _ in range(100)]:
        queue.remove(turn)
    assert served_before(queue, join(queue, "a")) <= 1


def test_who_is_passed_over_keeps_its_place() -> None:
    queue = FairQueue()
    for _ in range(50):
        join(queue, "a")
    for _ in range(49):
        serve(queue)
    passed_over = queue.pop()
    assert passed_over is not None
    queue.push_back(passed_over)
    for _ in range(3):
        join(queue, "b")
    assert served_before(queue, passed_over) <= 1


def test_old_debts_are_forgotten_once_nobody_waits() -> None:
    queue = FairQueue()
    for _ in range(100):
        join(queue, "a")
    for _ in range(100):
        serve(queue)
    newcomer = join(queue, "a")
    for _ in range(5):
        join(queue, "b")
    assert served_before(queue, newcomer) == 0


@settings(derandomize=True, max_examples=50, deadline=None)
@given(st.lists(st.sampled_from(["push", "push batch", "pop", "pass over", "remove"]), max_size=60), st.randoms())
def test_nobody_is_lost_or_served_twice(steps: list[str], rng: Random) -> None:
    queue = FairQueue()
    waiting: list[Turn] = []
    for step in steps:
        if step.startswith("push"):
            waiting.append(join(queue, rng.choice("abc"), urgent=step == "push", work=rng.uniform(1, 9)))
        elif step == "remove" and waiting:
            queue.remove(waiting.pop(rng.randrange(len(waiting))))
        elif step == "pass over" and waiting:
            passed_over = [queue.pop() for _ in range(min(2, len(waiting)))]
            for turn in passed_over:
                assert turn is not None
                queue.push_back(turn)
        elif step == "pop":
            turn = queue.pop()
            assert (turn is None) == (not waiting)
            if turn is not None:
                queue.served(turn)
                waiting.remove(turn)
        assert len(queue) == len(waiting) and bool(queue) == bool(waiting)
        assert set(queue.turns()) == set(waiting)
        assert (queue.peek() is None) == (not waiting)
