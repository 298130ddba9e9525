"""A caller in virtual time that sends its calls through the very `Router` that the clients use."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from email.utils import formatdate
from functools import partial
from random import Random

from ..core.classify import classify
from ..core.limits import read_limits
from ..core.model import MINUTE, Fault, Outcome, Reading, RouteRequest, Usage
from ..core.queue import Turn
from ..core.select import History
from ..core.verdict import BACKOFF_BASE, BACKOFF_CAP, FREE, POLICIES, Verdict, backoff, may_try_again
from ..lease import Lease
from ..router import Router
from .account import Denied
from .virtual import Answer, Steps, VirtualCall, VirtualProvider, VirtualTime

MAX_RETRIES = 2
"""The SDK's own default."""


class RoutedCaller:
    """Makes calls as the clients do (see `retry.Call`), in virtual time.

    Args:
        time: whose time passes; it is the router's clock too.
        provider: where the calls go.
        router: chooses the key of each attempt. Its keys carry their secrets.
        patience: seconds from a call's arrival until its last attempt may start.
        as_text: limits are read from the text of the headers, as over HTTP, which takes longer; else the provider
            tells the numbers that the text would hold.
    """

    def __init__(
        self,
        time: VirtualTime,
        provider: VirtualProvider,
        router: Router,
        *,
        patience: float,
        as_text: bool = False,
    ) -> None:
        self._time = time
        self._provider = provider
        self._router = router
        self._patience = patience
        self._as_text = as_text
        self._secrets = {key.name: key.secret.get_secret_value() for key in router.keys if key.secret is not None}

    def call(self, call: VirtualCall, request: RouteRequest | None = None) -> Steps:
        """All attempts of one call. `request` is what the router is told of it. Default: all there is."""
        time, router = self._time, self._router
        history, sent, free, waited = History(), 0, 0, 0.0
        request = request or call.describe()
        while True:
            asked = time.now
            lease = yield from self._lease(request, history, sent + 1, call.at + self._patience - asked)
            if lease is None:
                return
            waited += time.now - asked
            sent, sent_at, started_at = sent + 1, time.now, time.time()
            answer = yield from self._provider.attempt(self._secrets[lease.key.name], call, partial(self._heard, lease))
            outcome = self._outcome(lease, answer, call, time.now - sent_at)
            router.settle(lease, outcome, started_at=started_at, waited_s=waited)
            if outcome.fault is Fault.NONE:
                call.sent_at, call.ended_at, call.cached_tokens = sent_at, time.now, answer.cached_tokens
                call.key = lease.key.name
                return
            if router.is_single:
                if sent > MAX_RETRIES or not _sdk_would_retry(outcome):
                    return
                yield time.now + _sdk_pause(outcome, sent, router.rng)
                continue
            history.add(lease.key.name, lease.state.account.name, lease.state.host.name, outcome.fault)
            free += outcome.fault in FREE
            verdict = POLICIES[outcome.fault].verdict
            if not may_try_again(outcome.fault):
                return
            if verdict in (Verdict.RETRY, Verdict.WAIT) and not router.may_retry(lease):
                return
            if sent - free >= max(router.accounts_for(request), MAX_RETRIES + 1):
                return
            if verdict is Verdict.RETRY:
                yield time.now + max(backoff(sent, router.rng), min(outcome.wait or 0.0, BACKOFF_CAP))

    def _lease(
        self, request: RouteRequest, history: History, number: int, max_wait: float
    ) -> Generator[float, None, Lease | None]:
        """Wait for the lease of the next attempt; None if the call cannot start in time."""
        time, router = self._time, self._router
        taken = router.acquire(request, history, number=number, max_wait=max(max_wait, 0.0))
        if isinstance(taken, Turn):
            turn, process = taken, time.current
            assert process is not None
            turn.wake = process.wake
            granted = turn.granted
            while granted is None:
                yield turn.look_at
                granted = router.look(turn)
            taken = granted
        return taken if isinstance(taken, Lease) else None

    def _heard(self, lease: Lease, answer: Answer) -> None:
        self._router.heard(lease, self._readings(lease, answer))
        self._router.proved(lease)

    def _readings(self, lease: Lease, answer: Answer) -> Sequence[Reading]:
        shown = answer.refusal or answer.admitted
        if shown is None:
            return ()
        if not self._as_text:
            return shown.readings
        if isinstance(shown, Denied):
            shown = shown.reply
        headers = [(name.encode(), value.encode()) for name, value in shown.headers.items()]
        headers.append((b"date", formatdate(answer.date, usegmt=True).encode()))
        return read_limits(headers, provider=lease.key.provider, now=self._time.time())

    def _outcome(self, lease: Lease, answer: Answer, call: VirtualCall, seconds: float) -> Outcome:
        """What the attempt came to, as `exchange.Exchange` tells it."""
        account = answer.account
        heard = call.stream and answer.refusal is None
        readings = () if heard else self._readings(lease, answer)
        shown = Outcome(
            Fault.NONE,
            200,
            readings=readings,
            usage=Usage(call.prompt_tokens, call.completion_tokens, answer.cached_tokens),
            first_byte_s=answer.first_byte_s,
            seconds=seconds,
            organization=account and account.organization,
            project=account and account.project,
        )
        if answer.refusal is None:
            return shown
        reply = answer.refusal.reply
        failure = classify(
            provider=lease.key.provider,
            status=reply.status or 0,
            headers=reply.headers,
            body=reply.body,
            now=self._time.time(),
        )
        return shown._replace(
            fault=failure.fault,
            status=failure.status,
            wait=failure.wait,
            detail=failure.detail,
            known=failure.known,
            limit=failure.limit,
            dimension=failure.dimension,
            period=failure.period,
            shared=failure.shared,
            usage=None,
        )


def _sdk_would_retry(outcome: Outcome) -> bool:
    """Whether the SDK tries again after this answer, as it does by itself where there is but one key."""
    status = outcome.status or 0
    return status in (408, 409, 429) or status >= 500


def _sdk_pause(outcome: Outcome, sent: int, rng: Random) -> float:
    """Seconds until the SDK tries again: as long as the answer asks for, up to a minute, or else its own backoff."""
    if outcome.wait is not None and 0.0 < outcome.wait <= MINUTE:
        return outcome.wait
    return min(BACKOFF_BASE * 2.0 ** (sent - 1), BACKOFF_CAP) * rng.uniform(0.75, 1.0)
