"""Which keys share limits: learned from what the simulated provider shows, in virtual time."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from random import Random
from typing import Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keyrouter_openai.core.kinship import ANSWERS, KINDS, Decision, Joined, Kinship, Parted
from keyrouter_openai.core.model import Dimension, Fault, Outcome, Reading
from keyrouter_openai.testing import SimAccount
from keyrouter_openai.testing.model import Denied, SimProvider

TPM = 60_000
MODEL = "gpt-4o"


class Traffic:
    """Calls of a pool to a provider, one after the other, and what was decided on the way."""

    def __init__(self, *accounts: SimAccount, seed: int = 1) -> None:
        self.rng = Random(seed)
        self.provider = SimProvider(accounts, self.rng)
        self.kinship = Kinship()
        self.decisions: list[Decision] = []
        self.now = 0.0

    def add(self, *labels: str, declared: str | None = None) -> None:
        for label in labels:
            self.kinship.add(label, "host", declared=declared)

    def calls(self, *labels: str, times: int, pause: float = 1.0, drained: str = "") -> None:
        """Each call is that of a random key, of random size, some `pause` seconds after the last."""
        for _ in range(times):
            self.now += self.rng.expovariate(1 / pause)
            if drained:
                tokens = self.rng.expovariate(1 / 2000)
                self.provider.drain(drained, MODEL, tokens=tokens, now=self.now)
            self.call(self.rng.choice(labels), self.rng.randint(500, 3000))

    def call(self, label: str, tokens: int) -> None:
        try:
            admitted = self.provider.admit(self.provider.key(label), MODEL, tokens, self.now + 0.03)
            outcome = Outcome(Fault.NONE, 200, readings=admitted.readings)
        except Denied as denied:
            outcome = Outcome(Fault.RATE_LIMIT, 429, denied.wait, readings=denied.readings)
        charge = {Dimension.REQUESTS: 1.0, Dimension.TOKENS: float(tokens)}
        self.decisions += self.kinship.observe(label, MODEL, self.now, charge.__getitem__, outcome)

    @property
    def groups(self) -> set[frozenset[str]]:
        return groups(self.kinship)


def groups(kinship: Kinship) -> set[frozenset[str]]:
    """The partition, whatever its accounts are called."""
    found = kinship.accounts
    return {frozenset(key for key, own in found.items() if own == account) for account in found.values()}


def together(*keys: str) -> frozenset[str]:
    return frozenset(keys)


def two_and_one(headers: Literal["openai", "none"] = "openai", lag: float = 0.0) -> Traffic:
    """An account of two keys and one of one, with equal limits."""
    a = SimAccount("a", keys=2, tpm=TPM, headers=headers, header_lag_s=lag)
    return Traffic(a, SimAccount("b", tpm=TPM, headers=headers, header_lag_s=lag))


# What answers name.


def named(kinship: Kinship, key: str, organization: str, project: str | None = None) -> list[Decision]:
    outcome = Outcome(Fault.NONE, 200, organization=organization, project=project)
    return list(kinship.observe(key, MODEL, 0.0, lambda limit: 1.0, outcome))


def pool(*keys: str, declared: str | None = None) -> Kinship:
    kinship = Kinship()
    for key in keys:
        kinship.add(key, "host", declared=declared)
    return kinship


def test_a_key_starts_alone_or_where_it_was_declared() -> None:
    kinship = pool("a", "b")
    kinship.add("c", "host", declared="acme")
    assert kinship.accounts == {"a": "key:a", "b": "key:b", "c": "acme"}


def test_the_first_answer_that_names_an_organisation_decides() -> None:
    kinship = pool("a", "b", "c")
    assert named(kinship, "a", "org-1", "proj-1") == [
        Joined("a", "org-1/proj-1", "its answers name organisation 'org-1', project 'proj-1'")
    ]
    named(kinship, "b", "org-1", "proj-1")
    named(kinship, "c", "org-1", "proj-2")
    assert kinship.accounts == {"a": "org-1/proj-1", "b": "org-1/proj-1", "c": "org-1/proj-2"}
    assert named(kinship, "a", "org-1", "proj-1") == []


def test_an_answer_without_its_project_changes_nothing_and_one_with_it_is_finer() -> None:
    kinship = pool("a", "b")
    named(kinship, "a", "org-1")
    named(kinship, "a", "org-1", "proj-1")
    assert named(kinship, "a", "org-1") == []
    assert kinship.accounts["a"] == "org-1/proj-1"
    named(kinship, "b", "org-1")
    assert kinship.accounts["b"] == "org-1", "the account without a project is not the other's"


def test_a_key_whose_answers_name_another_organisation_leaves_its_declared_account_after_three() -> None:
    kinship = pool("a", "b", "c", declared="acme")
    named(kinship, "a", "org-1", "p")
    named(kinship, "b", "org-1", "p")
    for _ in range(ANSWERS - 1):
        assert named(kinship, "c", "org-2", "p") == []
    why = "3 answers in a row named organisation 'org-2', project 'p', and not organisation 'org-1', project 'p'"
    assert named(kinship, "c", "org-2", "p") == [Parted("c", "org-2/p", why)]
    assert kinship.accounts == {"a": "acme", "b": "acme", "c": "org-2/p"}


def test_it_is_the_odd_one_out_that_leaves_even_if_it_answered_first() -> None:
    kinship = pool("odd", "a", "b", declared="acme")
    for key in ("odd", "a", "b") * 2 * ANSWERS:
        named(kinship, key, "org-2" if key == "odd" else "org-1")
    assert kinship.accounts == {"a": "acme", "b": "acme", "odd": "org-2"}


def test_a_gateway_that_names_now_one_and_now_another_moves_no_key_to_and_fro() -> None:
    kinship = pool("a")
    decisions = [decision for i in range(50) for decision in named(kinship, "a", f"org-{i % 2}")]
    assert decisions == [Joined("a", "org-0", "its answers name organisation 'org-0'")]


def test_undeclared_keys_of_an_organisation_belong_to_the_account_declared_for_it() -> None:
    kinship = pool("early", "late")
    kinship.add("c", "host", declared="acme")
    named(kinship, "early", "org-1")
    assert named(kinship, "c", "org-1") == [Joined("early", "acme", "its answers name organisation 'org-1'")]
    named(kinship, "late", "org-1")
    assert set(kinship.accounts.values()) == {"acme"}


def test_an_account_that_was_declared_by_the_name_of_another_organisation_is_not_taken_for_it() -> None:
    kinship = pool("a")
    kinship.add("b", "host", declared="org-1")
    named(kinship, "b", "org-2")
    named(kinship, "a", "org-1")
    assert kinship.accounts == {"a": "org-1*", "b": "org-1"}


# What counters show.


def test_keys_whose_counters_go_on_where_the_others_stopped_share_an_account() -> None:
    traffic = two_and_one()
    traffic.add("a/key-1", "a/key-2", "b/key-1")
    traffic.calls("a/key-1", "a/key-2", "b/key-1", times=100)
    assert traffic.groups == {together("a/key-1", "a/key-2"), together("b/key-1")}
    [joined] = traffic.decisions
    assert isinstance(joined, Joined)
    assert joined.why.startswith("its counter of tokens goes on where that of key 'a/key-")


@pytest.mark.parametrize("pause", [0.2, 1.0, 5.0])
def test_equal_limits_alone_make_no_account(pause: float) -> None:
    traffic = Traffic(*(SimAccount(name, tpm=TPM) for name in "abcd"))
    labels = [f"{name}/key-1" for name in "abcd"]
    traffic.add(*labels)
    traffic.calls(*labels, times=1000, pause=pause)
    assert traffic.decisions == []


def test_what_somebody_else_takes_from_an_account_is_not_laid_to_another_key() -> None:
    traffic = Traffic(SimAccount("a", tpm=TPM), SimAccount("b", tpm=TPM))
    traffic.add("a/key-1", "b/key-1")
    traffic.calls("a/key-1", "b/key-1", times=1000, pause=2.0, drained="a")
    assert traffic.decisions == []


def test_keys_of_different_limits_or_hosts_share_nothing() -> None:
    kinship = Kinship()
    kinship.add("a", "one", declared=None)
    kinship.add("b", "two", declared=None)
    kinship.add("c", "one", declared=None)
    full = 0.0
    for i in range(300):  # one bucket, as far as its level goes; half the limit refills half as fast
        key, now = "abc"[i % 3], float(i)
        full = max(full, now) + 1.5
        limit = TPM / 2 if key == "c" else TPM
        reading = Reading(Dimension.TOKENS, 60.0, limit, limit - (full - now) * limit / 60.0)
        outcome = Outcome(Fault.NONE, 200, readings=[reading])
        assert not kinship.observe(key, MODEL, now, lambda _, taken=1.5 * limit / 60.0: taken, outcome)


def test_headers_that_are_a_second_late_are_no_evidence_to_the_contrary() -> None:
    traffic = two_and_one(lag=1.0)
    traffic.add("a/key-1", "a/key-2", "b/key-1")
    traffic.calls("a/key-1", "a/key-2", "b/key-1", times=600)
    assert traffic.groups == {together("a/key-1", "a/key-2"), together("b/key-1")}
    assert not any(isinstance(decision, Parted) for decision in traffic.decisions)


def test_a_wrong_guess_is_undone_within_100_calls() -> None:
    traffic = two_and_one()
    traffic.add("a/key-1", "a/key-2", "b/key-1")
    traffic.kinship.restore("b/key-1", "key:a/key-1")
    traffic.calls("a/key-1", "a/key-2", "b/key-1", times=150)
    assert traffic.groups == {together("a/key-1", "a/key-2"), together("b/key-1")}
    why = "its counter of tokens does not show what its account's other keys used"
    assert why in [decision.why for decision in traffic.decisions if isinstance(decision, Parted)]


def test_what_is_declared_is_not_changed_by_guesses() -> None:
    traffic = two_and_one()
    traffic.add("a/key-1", "b/key-1", declared="one")
    traffic.add("a/key-2", declared="two")
    traffic.calls("a/key-1", "a/key-2", "b/key-1", times=500)
    assert traffic.decisions == []


def test_a_key_may_be_guessed_to_belong_to_a_declared_account() -> None:
    traffic = two_and_one()
    traffic.add("a/key-1", declared="acme")
    traffic.add("a/key-2", "b/key-1")
    traffic.calls("a/key-1", "a/key-2", "b/key-1", times=200)
    assert traffic.kinship.accounts == {"a/key-1": "acme", "a/key-2": "acme", "b/key-1": "key:b/key-1"}


def test_a_later_split_of_an_account_is_noticed() -> None:
    traffic = two_and_one()
    traffic.add("a/key-1", "a/key-2")
    traffic.calls("a/key-1", "a/key-2", times=300)
    assert traffic.groups == {together("a/key-1", "a/key-2")}
    readings = [Reading(Dimension.TOKENS, None, TPM / 2, TPM / 2 - 1.0)]
    for _ in range(100):
        traffic.calls("a/key-1", times=1)
        traffic.now += 1.0
        outcome = Outcome(Fault.NONE, 200, readings=readings)
        traffic.kinship.observe("a/key-2", MODEL, traffic.now, lambda limit: 1.0, outcome)
    assert traffic.groups == {together("a/key-1"), together("a/key-2")}


# What refusals show.


def test_without_headers_keys_that_are_refused_together_share_an_account() -> None:
    traffic = two_and_one(headers="none")
    traffic.add("a/key-1", "a/key-2", "b/key-1")
    traffic.calls("a/key-1", "a/key-2", "b/key-1", times=1000, pause=0.6)
    assert traffic.groups == {together("a/key-1", "a/key-2"), together("b/key-1")}
    assert any("it was refused while key 'a/key-" in decision.why for decision in traffic.decisions)


def test_without_headers_keys_that_are_served_while_others_are_refused_share_none() -> None:
    traffic = Traffic(SimAccount("a", tpm=TPM, headers="none"), SimAccount("b", tpm=TPM, headers="none"))
    traffic.add("a/key-1", "b/key-1")
    traffic.kinship.restore("b/key-1", "key:a/key-1")
    traffic.calls("a/key-1", "a/key-1", "a/key-1", "b/key-1", times=1000)
    assert traffic.groups == {together("a/key-1"), together("b/key-1")}
    whys = [decision.why for decision in traffic.decisions if isinstance(decision, Parted)]
    assert whys[0] == "it was served while its account's other keys were refused, repeatedly"


@pytest.mark.parametrize("fault", [Fault.RATE_LIMIT, Fault.NONE])
def test_what_always_or_never_happens_is_no_certainty(fault: Fault) -> None:
    kinship = pool("a", "b", "c", declared="acme")
    kinship.add("other", "host", declared="other")
    decisions: list[Decision] = []
    for i in range(10_000):
        refusal = Outcome(Fault.RATE_LIMIT, 429, 1.0)
        decisions += kinship.observe("other", MODEL, float(i), lambda limit: 1.0, refusal)
        decisions += kinship.observe("abc"[i % 3], MODEL, i + 0.5, lambda limit: 1.0, Outcome(fault))
    assert decisions == []


# How the partition changes.


def test_an_account_named_after_a_key_that_leaves_is_named_after_another() -> None:
    kinship = pool("a", "b", "c")
    kinship.restore("b", "key:a")
    kinship.restore("c", "key:a")
    joined, *moved = named(kinship, "a", "org-1")
    assert joined == Joined("a", "org-1", "its answers name organisation 'org-1'")
    assert {(type(decision), decision.key, decision.account) for decision in moved} == {
        (Joined, "b", "key:b"),
        (Joined, "c", "key:b"),
    }
    assert kinship.accounts == {"a": "org-1", "b": "key:b", "c": "key:b"}


def test_what_was_learned_before_is_taken_up_again_unless_it_cannot_hold() -> None:
    kinship = pool("a", "b")
    kinship.add("c", "host", declared="acme")
    assert [d.account for d in kinship.restore("a", "org-1/p")] == ["org-1/p"]
    assert kinship.restore("b", "key:gone") == ()
    assert kinship.restore("c", "org-1/p") == ()
    assert kinship.accounts == {"a": "org-1/p", "b": "key:b", "c": "acme"}
    assert named(kinship, "a", "org-1", "p") == []


keys = st.integers(0, 7)
answers = st.lists(st.tuples(keys, st.sampled_from("nnrx"), st.floats(0, 3)), max_size=150)


def observations(
    steps: list[tuple[int, str, float]], organizations: dict[int, str]
) -> Iterator[tuple[str, float, Outcome]]:
    """Answers that name an organisation, show a counter that all keys share, or refuse."""
    now = full = 0.0
    for number, kind, pause in steps:
        now += pause
        outcome = Outcome(Fault.RATE_LIMIT, 429, 1.0)
        if kind == "n":
            outcome = Outcome(Fault.NONE, 200, organization=organizations[number])
        elif kind == "r":
            full = max(full, now) + 1.0
            reading = Reading(Dimension.TOKENS, 60.0, TPM, TPM - (full - now) * TPM / 60.0)
            outcome = Outcome(Fault.NONE, 200, readings=[reading])
        yield f"k{number}", now, outcome


@given(steps=answers, organizations=st.fixed_dictionaries({n: st.sampled_from("xyz") for n in range(8)}))
def test_keys_whose_answers_name_different_organisations_are_never_joined(
    steps: list[tuple[int, str, float]], organizations: dict[int, str]
) -> None:
    kinship = pool(*(f"k{number}" for number in range(8)))
    known: dict[str, str] = {}
    for key, now, outcome in observations(steps, organizations):
        kinship.observe(key, MODEL, now, lambda limit: TPM / 60.0, outcome)
        if outcome.organization is not None:
            known[key] = outcome.organization
        found = kinship.accounts
        assert {key: found[key] for key in known} == known


@given(
    steps=answers,
    organizations=st.fixed_dictionaries({n: st.sampled_from("xyz") for n in range(8)}),
    declared=st.lists(st.sampled_from(["x", "acme", None]), min_size=8, max_size=8),
)
def test_whatever_was_declared_three_answers_of_each_key_part_the_organisations(
    steps: list[tuple[int, str, float]], organizations: dict[int, str], declared: list[str | None]
) -> None:
    kinship = Kinship()
    state: dict[str, str] = {}
    for number, account in enumerate(declared):
        kinship.add(f"k{number}", "host", declared=account)
        state[f"k{number}"] = account or f"key:k{number}"
    last = [(number, "n", 0.0) for _ in range(3 * ANSWERS) for number in range(8)]
    for key, now, outcome in observations(steps + last, organizations):
        for decision in kinship.observe(key, MODEL, now, lambda limit: TPM / 60.0, outcome):
            state[decision.key] = decision.account
        assert kinship.accounts == state, "the decisions tell all"
    for group in groups(kinship):
        assert len({organizations[int(key[1:])] for key in group}) == 1


@settings(max_examples=10)
@given(order=st.randoms(use_true_random=False))
def test_memory_is_bounded_whatever_callers_name_in_whatever_order(order: Random) -> None:
    kinship = pool(*(f"k{number}" for number in range(10)))

    def grow(first: int, last: int) -> int:
        families = [f"family-{number:05}" for number in range(first, last)]
        order.shuffle(families)
        for place, family in enumerate(families):
            key, now = f"k{place % 10}", float(first + place)
            reading = Reading(Dimension.TOKENS, 60.0, TPM, order.uniform(0, TPM))
            kinship.observe(key, family, now, lambda limit: 100.0, Outcome(Fault.NONE, 200, readings=[reading]))
            kinship.observe(key, family, now, lambda limit: 100.0, Outcome(Fault.RATE_LIMIT, 429))
        return len(pickle.dumps(kinship))

    enough = grow(0, 2 * KINDS)
    assert grow(2 * KINDS, 5 * KINDS) < 1.1 * enough
