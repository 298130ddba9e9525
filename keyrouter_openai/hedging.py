"""Hedging: where an answer is slow to begin, a second attempt on another account, and the first to answer wins.

Off unless `hedge_after` says otherwise, and for calls alone that leave nothing behind when they run twice. It takes
spare capacity only, and each second attempt costs the pool one of its retries: where all is slow, hedging ends.
(J. Dean, L. A. Barroso, The Tail at Scale, CACM 2013.)
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping
from math import inf
from typing import TYPE_CHECKING, Any, cast

from anyio import CancelScope, create_task_group

from . import _sdk
from .core.quantile import Quantile
from .core.state import model_family
from .errors import ConfigError
from .options import endpoint_of

if TYPE_CHECKING:
    from .retry import Call

_Send = Callable[[], Awaitable[Any]]
_Attempt = Callable[["Call"], Awaitable[Any]]

LEAST = 20
"""Answers of a model that must have been timed before "p95" means anything."""

_STATELESS = ("/completions", "/embeddings", "/moderations")
_SAFE_TOOLS = ("function", "custom")
"""Tools that the caller runs, and not the provider."""


async def hedged(call: Call, send: _Send, attempt: _Attempt) -> Any:
    """Make the attempt of `call` by `send`, and one more by `attempt` if the headers of its answer are late.

    Of both the first to be answered counts; the other is cancelled, and settled as abandoned. An attempt that
    fails leaves the field to the other, unless its error is final. What is returned or raised is that of the
    attempt which `call` holds afterwards, still to be settled if it is an error.
    """
    if not runs_twice(call.options):
        return await send()
    first, after = call.exchange, call.hedge_after
    if not isinstance(after, str):
        return await (send() if after is None else _Race(call, send, attempt).run(after))
    family = model_family(call.request.model)
    times = call.router.header_times.get(family) or Quantile(0.95, least=LEAST)
    result = await (send() if times.value is None else _Race(call, send, attempt).run(times.value))
    # One that lost the race had no headers yet: it took longer than the estimate, however long.
    seconds = inf if first.first_byte_s is None else first.first_byte_s
    call.router.header_times.setdefault(family, times).add(seconds)
    return result


def refuse_hedging(call: Call) -> None:
    """Say that the sync client does not hedge, if that is asked of it.

    Raises:
        ConfigError: `hedge_after` is set.
    """
    if call.hedge_after is not None:
        raise ConfigError("hedge_after: the sync client makes one attempt at a time; use RoutedOpenAI, or leave it out")


def runs_twice(options: _sdk.Options) -> bool:
    """Whether a call may run twice, on two accounts: it leaves nothing behind, and both would answer alike.

    Those are completions, embeddings, moderations and the list of models; chat completions that are not stored;
    and responses that are neither stored nor in the background, build on nothing stored, and have no tools which
    the provider runs (OpenAI's API reference: `store` is true unless said otherwise for responses, and false
    for chat completions).
    """
    path = endpoint_of(options.url)
    if options.method.lower() == "get":
        return path == "/models"
    given = cast("object", options.json_data)  # pyright: ignore[reportUnknownMemberType]
    if not isinstance(given, Mapping):
        return False
    body = {**cast("Mapping[str, Any]", given), **(options.extra_json or {})}
    if path == "/chat/completions":
        return not body.get("store")
    if path == "/responses":
        stateful = any(body.get(field) for field in ("background", "conversation", "previous_response_id", "prompt"))
        return body.get("store") is False and not stateful and _are_safe(body.get("tools") or ())
    return path in _STATELESS


def _are_safe(tools: object) -> bool:
    if not isinstance(tools, Iterable):
        return False
    return all(
        isinstance(tool, Mapping) and cast("Mapping[str, Any]", tool).get("type") in _SAFE_TOOLS
        for tool in cast("Iterable[object]", tools)
    )


class _Race:
    """Two attempts of one call: the first runs in the caller's own task, the second in a child."""

    def __init__(self, call: Call, send: _Send, attempt: _Attempt) -> None:
        self._call = call
        self._send = send
        self._attempt = attempt
        self._first = CancelScope()
        self._second = CancelScope()
        self._twin: Call | None = None
        """The second attempt, from its start until it has lost."""
        self._won = False
        self._result: Any = None
        self._error: Exception | None = None
        """What the first attempt failed with, or the second if that was the last to fail."""

    async def run(self, delay: float) -> Any:
        """Make the second attempt after `delay` seconds, and leave in the call the attempt that counts."""
        try:
            async with create_task_group() as group:
                group.start_soon(self._run_second, delay)
                with self._first:
                    await self._run_first()
        except BaseException:
            await _discard(self._result)
            raise
        if self._twin is not None:
            self._call.adopt(self._twin)
        if not self._won and self._error is not None:
            raise self._error
        return self._result

    async def _run_first(self) -> None:
        call = self._call
        try:
            result = await self._send()
        except BaseException as error:
            if isinstance(error, Exception):
                self._first_failed(error)
                return
            if self._won:
                call.lose()
            raise
        await self._finish(result, other=self._second)

    def _first_failed(self, error: Exception) -> None:
        """Keep the error until the second attempt has come to its end, if that can still help."""
        self._error = error
        if self._twin is None or not (self._call.ended(error) or self._call.may_do_elsewhere):
            self._second.cancel()

    async def _run_second(self, delay: float) -> None:
        with self._second:
            await self._call.router.clock.sleep(delay)
            if self._call.exchange.first_byte_s is not None or (twin := self._call.fork()) is None:
                return
            self._twin = twin
            try:
                result = await self._attempt(twin)
            except BaseException as error:
                if isinstance(error, Exception):
                    self._second_failed(twin, error)
                    return
                twin.lose()
                self._drop(twin)
                raise
            if not await self._finish(result, other=self._first):
                self._drop(twin)

    def _second_failed(self, twin: Call, error: Exception) -> None:
        """If the first attempt has failed before, this error is the one to judge; else the first goes on."""
        if self._error is not None and not self._won:
            self._error = error
        else:
            twin.ended(error)
            self._drop(twin)

    async def _finish(self, result: Any, *, other: CancelScope) -> bool:
        """Take the result of the attempt that is the first to succeed; otherwise nobody will read it."""
        if self._won:
            await _discard(result)
            return False
        self._won, self._result = True, result
        other.cancel()
        return True

    def _drop(self, twin: Call) -> None:
        self._twin = None
        self._call.note(twin)


async def _discard(result: Any) -> None:
    with CancelScope(shield=True):
        await _sdk.close_result(result)
