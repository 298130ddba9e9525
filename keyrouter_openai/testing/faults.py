"""Faults on demand, as data: what can go wrong (`FAULTS`), and to which calls it happens (`FaultRules`)."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from .errors import ERRORS, Context, error_object, error_reply, wait_headers
from .wire import Ending, Event, Json, Reply, go_duration, to_json


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that can go wrong; exactly one of the two is given.

    `answer` makes the whole answer. `spoil` breaks a good stream: it gets the answer and how many events with
    content come first, and concerns streamed calls alone.
    """

    name: str
    answer: Callable[[Context], Reply] | None = None
    spoil: Callable[[Reply, int], Reply] | None = None


def respond(status: int, headers: Mapping[str, str] | None = None, body: object = b"") -> Fault:
    """The fault of getting exactly this answer.

    `body` is sent as it is if it is text or bytes (server-sent events too), else as JSON. Its content type
    is guessed unless `headers` names one.

    Raises:
        ValueError: the status is not one of an answer (200 to 599).
    """
    reply = _canned(status, headers or {}, body)
    return Fault(f"respond {status}", lambda _: reply)


def redirect(location: str) -> Fault:
    """The fault of being sent to another address by a 307."""
    reply = _canned(307, {"location": location}, b"")
    return Fault("redirect", lambda _: reply)


# The server frames each answer itself, so a recorded answer's own framing is left out.
_FRAMING = {"content-length", "transfer-encoding", "content-encoding", "connection", "keep-alive"}


def _canned(status: int, headers: Mapping[str, str], body: object) -> Reply:
    if not 200 <= status <= 599:
        raise ValueError(f"{status} is not the status of an answer: use 200 to 599")
    given = {name.lower(): value for name, value in headers.items() if name.lower() not in _FRAMING}
    raw = body.encode() if isinstance(body, str) else body if isinstance(body, bytes) else to_json(body)
    return Reply(status, {"content-type": _content_type(raw), **given}, raw, bare=True)


def _content_type(raw: bytes) -> str:
    start = raw[:20].lstrip()
    if start.startswith((b"data:", b"event:")):
        return "text/event-stream"
    if start.startswith((b"{", b"[")):
        return "application/json"
    return "text/html" if start.startswith(b"<") else "text/plain"


def _page(status: int, title: str) -> Reply:
    title = f"{status} {title}"
    page = f"<html>\n<head><title>{title}</title></head>\n<body><h1>{title}</h1></body>\n</html>\n"
    return _canned(status, {"server": "cloudflare"}, page)


def _front_end(context: Context) -> Reply:
    page = _page(429, "Too Many Requests")
    return replace(page, headers={**page.headers, "retry-after": wait_headers(context.wait)["retry-after"]})


def _rate_limit(context: Context) -> Reply:
    reply = error_reply("rate_limit", context)
    empty = {
        "x-ratelimit-limit-requests": str(context.limit),
        "x-ratelimit-remaining-requests": "0",
        "x-ratelimit-reset-requests": go_duration(context.wait),
    }
    return replace(reply, headers={**reply.headers, **empty})


def _request_too_large(context: Context) -> Reply:
    return error_reply("request_too_large", replace(context, unit="tokens", limit=30_000, requested=34_472))


# Seen at Anthropic, DeepSeek, OpenRouter and servers built with FastAPI, in this order.
_OVERLOADED = {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}
_NO_BALANCE = error_object("Insufficient Balance", "unknown_error", "invalid_request_error", None)
_ERROR_IN_200 = {"error": {"message": "Provider returned error", "code": 502}}
_FIELD_REQUIRED = {"detail": [{"type": "missing", "loc": ["body", "messages"], "msg": "Field required"}]}

_STREAM_ERROR = "The server had an error while processing your request. Sorry about that!"


def _first(events: tuple[Event, ...], count: int) -> tuple[Event, ...]:
    """The events up to the one that is the `count`-th with content; for 0, those before any content."""
    content = [place for place, event in enumerate(events) if event.content]
    end = content[min(count, len(content)) - 1] + 1 if count else content[0]
    return events[:end]


def _error_event(reply: Reply, count: int) -> Reply:
    kept = _first(reply.events or (), count)
    if kept and kept[0].data.startswith(b"event: response."):
        error: Json = {"type": "error", "code": "server_error", "message": _STREAM_ERROR, "param": None}
        data = b"event: error\ndata: " + to_json({**error, "sequence_number": len(kept)})
    else:
        data = b"data: " + to_json(error_object(_STREAM_ERROR, "server_error", None, None))
    return replace(reply, events=(*kept, Event(data + b"\n\n")))


def _failed_event(reply: Reply, count: int) -> Reply:
    kept = _first(reply.events or (), count)
    if not kept or not kept[0].data.startswith(b"event: response."):
        return _error_event(reply, count)
    response: Json = json.loads(kept[0].data.partition(b"data: ")[2])["response"]
    response |= {"status": "failed", "error": {"code": "server_error", "message": _STREAM_ERROR}}
    failed = {"type": "response.failed", "response": response, "sequence_number": len(kept)}
    return replace(reply, events=(*kept, Event(b"event: response.failed\ndata: " + to_json(failed) + b"\n\n")))


def _stop(ending: Ending) -> Callable[[Reply, int], Reply]:
    return lambda reply, count: replace(reply, events=_first(reply.events or (), count), ending=ending)


def _always(reply: Reply) -> Callable[[Context], Reply]:
    return lambda _: reply


def _nothing(ending: Ending, instead: bytes = b"") -> Callable[[Context], Reply]:
    return _always(Reply(None, body=instead, ending=ending, bare=True))


def _api_error(name: str) -> Callable[[Context], Reply]:
    return lambda context: error_reply(name, context)


FAULTS: dict[str, Fault] = {
    fault.name: fault
    for fault in (
        *(Fault(name, _api_error(name)) for name in ERRORS),
        # these two say more than their rows in ERRORS
        Fault("rate_limit", _rate_limit),
        Fault("request_too_large", _request_too_large),
        # answers of other servers
        Fault("payment_required", _always(_canned(402, {}, _NO_BALANCE))),
        Fault("unprocessable", _always(_canned(422, {}, _FIELD_REQUIRED))),
        Fault("overloaded", _always(_canned(529, {}, _OVERLOADED))),
        Fault("error_in_200", _always(_canned(200, {}, _ERROR_IN_200))),
        Fault("bad_gateway", _always(_page(502, "Bad Gateway"))),
        Fault("gateway_timeout", _always(_page(504, "Gateway Time-out"))),
        Fault("front_end", _front_end),
        # no answer
        Fault("reset", _nothing(Ending.RESET)),
        Fault("disconnect", _nothing(Ending.CUT)),
        Fault("hang", _nothing(Ending.STALL)),
        Fault("garbage", _nothing(Ending.CUT, b"SSH-2.0-OpenSSH_9.6\r\n")),
        # streams that break
        Fault("stream_error", spoil=_error_event),
        Fault("stream_failed", spoil=_failed_event),
        Fault("stream_end", spoil=_stop(Ending.COMPLETE)),
        Fault("stream_cut", spoil=_stop(Ending.CUT)),
        Fault("stream_stall", spoil=_stop(Ending.STALL)),
    )
}


@dataclass(slots=True)
class Rule:
    """A fault, the calls that it happens to, and how often. None matches any call."""

    fault: Fault
    key: str | None
    account: str | None
    model: str | None
    path: str | None
    times: int | None
    """So many more times; None is until it is healed."""
    after: int
    """So many more matching calls are spared first."""
    wait: float
    """Seconds that the answer asks to wait, where it asks at all."""
    events: int
    """Events with content that come before the fault, in a stream."""


@dataclass(frozen=True, slots=True)
class CallScope:
    """What a rule is matched against."""

    key: str | None
    account: str | None
    model: str | None
    path: str


class FaultRules:
    """The faults now in force, in the order in which they were added."""

    def __init__(self) -> None:
        self._rules: list[Rule] = []

    def add(self, rule: Rule) -> None:
        self._rules.append(rule)

    def heal(self, fault: str | None, key: str | None, account: str | None) -> None:
        """Forget the rules that were added with these; None stands for any."""
        self._rules = [
            rule
            for rule in self._rules
            if not (fault in (None, rule.fault.name) and key in (None, rule.key) and account in (None, rule.account))
        ]

    def take(self, call: CallScope, *, spoiling: bool) -> Rule | None:
        """The first rule that hits this call, counted as used; `spoiling` ones break a good stream."""
        for rule in self._rules:
            if (rule.fault.spoil is not None) is not spoiling or not _matches(rule, call):
                continue
            if rule.after > 0:
                rule.after -= 1
            elif rule.times is None:
                return rule
            elif rule.times > 0:
                rule.times -= 1
                return rule
        return None


def _matches(rule: Rule, call: CallScope) -> bool:
    return (
        rule.key in (None, call.key)
        and rule.account in (None, call.account)
        and rule.model in (None, call.model)
        and rule.path in (None, call.path)
    )
