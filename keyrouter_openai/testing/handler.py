"""From a request to its answer and its record: faults first, then credential, request and limits."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from email.utils import formatdate
from random import Random
from typing import Protocol

from .account import Admitted
from .bills import ADMIN, Bills
from .cache import hash_prefixes
from .endpoints import ENDPOINTS, Work
from .errors import Context, error_reply, invalid
from .faults import CallScope, FaultRules
from .forms import read_form
from .generate import CHARS_PER_TOKEN, text_of
from .model import Latency, SimKey, SimProvider
from .resources import Resources, check_references, keep_answer
from .websocket import MESSAGE, is_upgrade, upgrade
from .wire import Json, Refused, Reply, Request, as_object, json_reply

BASE = "/v1"
EVENT_STREAM = "text/event-stream"
MODELS = f"{BASE}/models"
RESPONSES = f"{BASE}/responses"
# Listed where an account has access to any model.
DEFAULT_MODELS = ("gpt-4o", "gpt-4o-mini", "gpt-image-1", "text-embedding-3-small")
# The one version of OpenAI's API there has been (https://developers.openai.com/api/reference/overview).
API_VERSION = "2020-10-01"
# Tokens in a block of the prompt cache.
CACHE_BLOCK = 512


class TimeSource(Protocol):
    """The clock of a simulator; Python's `time` module is one."""

    def monotonic(self) -> float: ...

    def time(self) -> float: ...


@dataclass(frozen=True, slots=True)
class Call:
    """One request that reached the simulator, and what it got. It holds no credential."""

    at: float
    """Wall-clock time, seconds since the epoch."""
    key: str | None
    """The label of the key, None where the credential is unknown or missing."""
    account: str | None
    method: str
    path: str
    model: str | None
    stream: bool
    """Whether a stream was asked for."""
    status: int | None
    """The HTTP status that was sent, None where none was."""
    fault: str | None
    """The name of the fault that hit it, if one did."""
    tokens: int
    """What the token limit is charged for such a request, whether it was admitted or not."""
    authorized: bool
    """Whether a credential came along, known or not."""
    organization: str | None
    """The header `OpenAI-Organization`."""
    project: str | None
    """The header `OpenAI-Project`."""
    retry_count: str | None
    """The header `X-Stainless-Retry-Count`."""
    idempotency_key: str | None
    """The header `Idempotency-Key`."""
    body: bytes = field(repr=False)


@dataclass(slots=True)
class _Exchange:
    """A request as far as it is understood. `work` is the refusal where the request is malformed."""

    request: Request
    key: SimKey | None
    fields: Json
    work: Work | Refused | None
    fault: str | None = None
    admitted: Admitted | None = None

    @property
    def model(self) -> str | None:
        model = self.fields.get("model")
        return model if isinstance(model, str) else None

    @property
    def scope(self) -> CallScope:
        label, account = (self.key.label, self.key.account) if self.key else (None, None)
        return CallScope(label, account, self.model, self.request.path)


class Handler:
    """Answers requests, one at a time. Knows no sockets."""

    def __init__(
        self,
        provider: SimProvider,
        bills: Bills,
        faults: FaultRules,
        latency: Latency,
        rng: Random,
        clock: TimeSource,
    ) -> None:
        self._provider = provider
        self._bills = bills
        self._faults = faults
        self._latency = latency
        self._rng = rng
        self._clock = clock
        self._resources = Resources()

    def handle(self, request: Request) -> tuple[Reply, Call]:
        """The answer to a request, and the record of it."""
        exchange = self._understand(request)
        try:
            reply = self._answer(exchange)
        except Refused as refused:
            reply = refused.reply
        if reply.tokens:
            reply = self._latency.apply(reply, self._rng)
        if exchange.admitted:
            end = self._clock.monotonic() + reply.seconds
            self._provider.finish(exchange.admitted, end, reply.completion_tokens)
        if not reply.bare:
            reply = replace(reply, headers={**self._api_headers(exchange, reply), **reply.headers})
        return reply, self._record(exchange, reply)

    def _understand(self, request: Request) -> _Exchange:
        key = self._provider.find_key(request.secret) or self._bills.find_key(request.secret)
        if is_upgrade(request):
            return _Exchange(request, key, {**request.query}, None)
        # A message on a websocket is a call to a model like those to the Responses API.
        path = RESPONSES if request.method == MESSAGE else request.path if request.method == "POST" else ""
        endpoint = ENDPOINTS.get(path)
        if endpoint is None:
            return _Exchange(request, key, _fields_of(request), None)
        try:
            fields = as_object(json.loads(request.body))
        except (ValueError, RecursionError):
            text = "We could not parse the JSON body of your request. The OpenAI API expects a JSON payload."
            return _Exchange(request, key, {}, Refused(invalid(text)))
        try:
            return _Exchange(request, key, fields, endpoint.read(fields))
        except Refused as refused:
            return _Exchange(request, key, fields, refused)

    def _answer(self, exchange: _Exchange) -> Reply:
        request, now = exchange.request, self._clock.monotonic()
        rule = self._faults.take(exchange.scope, spoiling=False)
        if rule and rule.fault.answer:
            exchange.fault = rule.fault.name
            reply = rule.fault.answer(self._context(exchange, rule.wait))
            if not reply.bare:
                self._count_failed(exchange, now)
            return reply
        if request.path.startswith(ADMIN):
            organization = self._bills.authenticate(request.secret)
            return self._bills.answer(request, organization, self._clock.time()) or self._in_form(exchange)
        key = self._provider.authenticate(
            request.secret,
            request.headers.get("openai-organization"),
            request.headers.get("openai-project"),
        )
        if isinstance(exchange.work, Work):
            return self._call_model(exchange, exchange.work, key, now)
        if exchange.work is not None:
            self._count_failed(exchange, now)
            raise exchange.work
        return self._look_up(exchange, key)

    def _call_model(self, exchange: _Exchange, work: Work, key: SimKey, now: float) -> Reply:
        project = self._resources.project(self._provider.account(key.account))
        check_references(project, work.fields)
        if work.model.startswith("ft:") and work.model not in project.models:
            raise Refused(error_reply("model_missing", Context(model=work.model)))
        cached = self._cached_tokens(work, key, now)
        exchange.admitted = self._provider.admit(key, work.model, work.charge, now, work.prompt_tokens - cached)
        work, ident, created = replace(work, cached_tokens=cached), self._ident(), int(self._clock.time())
        reply = work.answer(ident, created)
        reply = keep_answer(exchange.request.path, project, work, reply, ident, created)
        self._provider.bill(key, reply.tokens)
        streamed = work.stream and exchange.request.method != MESSAGE
        served = self._bills.add(self._clock.time(), key, exchange.request.path, work, reply, streamed=streamed)
        headers = {**reply.headers, **exchange.admitted.headers}
        reply = replace(reply, headers=headers, on_content=served.generate)
        rule = self._faults.take(exchange.scope, spoiling=True) if reply.events else None
        if rule and rule.fault.spoil:
            exchange.fault = rule.fault.name
            reply = rule.fault.spoil(reply, rule.events)
        return reply

    def _cached_tokens(self, work: Work, key: SimKey, now: float) -> int:
        if not work.endpoint.generates or not self._provider.account(key.account).cache:
            return 0
        # Instructions come before the rest of the prompt.
        text = text_of(work.fields.get("instructions")) + text_of(work.fields[work.endpoint.prompt])
        prefixes = hash_prefixes(work.model, text, CACHE_BLOCK * CHARS_PER_TOKEN)
        return self._provider.cached_tokens(key, prefixes, CACHE_BLOCK, now)

    def _look_up(self, exchange: _Exchange, key: SimKey) -> Reply:
        """Answer what needs no model: models, what the project keeps, and in form all else that the SDK knows."""
        request = exchange.request
        if is_upgrade(request):
            if exchange.model is not None:
                self._models(exchange.model, key)
            if reply := upgrade(request):
                return reply
        if request.method == "GET" and (request.path == MODELS or request.path.startswith(MODELS + "/")):
            return self._models(request.path.removeprefix(MODELS).removeprefix("/"), key)
        project = self._resources.project(self._provider.account(key.account))
        reply = self._resources.answer(request, project, self._ident, int(self._clock.time()))
        return reply or self._in_form(exchange)

    def _in_form(self, exchange: _Exchange) -> Reply:
        """Answer what the SDK can ask for with as little as its types allow."""
        from .sdk_routes import sdk_routes  # imports the SDK: nothing that those should pay for who never ask

        request, path = exchange.request, exchange.request.path.removeprefix(BASE)
        reply = sdk_routes().answer(request.method, path, request.query, stream=_is_stream(exchange))
        if reply is None:
            raise Refused(error_reply("unknown_route", self._context(exchange, wait=0.0)))
        return reply

    def _models(self, name: str, key: SimKey) -> Reply:
        account = self._provider.account(key.account)
        tuned = self._resources.project(account).models
        created = int(self._clock.time())
        if not name:
            models = [_model(each, created) for each in account.models or DEFAULT_MODELS]
            return json_reply({"object": "list", "data": models + [_model(*each) for each in tuned.items()]})
        if name in tuned:
            return json_reply(_model(name, tuned[name]))
        if name.startswith("ft:") or (account.models is not None and name not in account.models):
            raise Refused(error_reply("model_missing", Context(model=name)))
        return json_reply(_model(name, created))

    def _context(self, exchange: _Exchange, wait: float) -> Context:
        request, key = exchange.request, exchange.key
        context = Context(
            secret=request.secret or "",
            model=exchange.model or "",
            route=f"{request.method} {request.path}",
            wait=wait,
        )
        if key is None:
            return context
        account = self._provider.account(key.account)
        limit = account.rpm or context.limit
        return replace(
            context,
            organization=account.organization,
            project=account.project,
            limit=limit,
            used=limit,
        )

    def _count_failed(self, exchange: _Exchange, now: float) -> None:
        if exchange.key and exchange.model:
            self._provider.count_failed(exchange.key, exchange.model, now)

    def _ident(self) -> str:
        return f"{self._rng.getrandbits(96):024x}"

    def _api_headers(self, exchange: _Exchange, reply: Reply) -> dict[str, str]:
        headers = {
            "date": formatdate(self._clock.time(), usegmt=True),
            "x-request-id": f"req_{self._rng.getrandbits(128):032x}",
            "openai-version": API_VERSION,
            "openai-processing-ms": str(int(reply.delay * 1000)),
        }
        if exchange.key and reply.status != 401:
            account = self._provider.account(exchange.key.account)
            headers |= {"openai-organization": account.organization, "openai-project": account.project}
        return headers

    def _record(self, exchange: _Exchange, reply: Reply) -> Call:
        request, key, work = exchange.request, exchange.key, exchange.work
        return Call(
            at=self._clock.time(),
            key=key.label if key else None,
            account=key.account if key else None,
            method=request.method,
            path=request.path,
            model=exchange.model,
            stream=_is_stream(exchange),
            status=reply.status,
            fault=exchange.fault,
            tokens=work.charge if isinstance(work, Work) else 0,
            authorized="authorization" in request.headers,
            organization=request.headers.get("openai-organization"),
            project=request.headers.get("openai-project"),
            retry_count=request.headers.get("x-stainless-retry-count"),
            idempotency_key=request.headers.get("idempotency-key"),
            body=request.body,
        )


def _fields_of(request: Request) -> Json:
    """What a JSON body or a form says; nothing where it is malformed."""
    content_type = request.headers.get("content-type", "")
    try:
        if content_type.startswith("multipart/form-data"):
            form = read_form(content_type, request.body)
            return {name: content.decode() for name, (filename, content) in form.items() if filename is None}
        return as_object(json.loads(request.body or b"{}"))
    except (ValueError, RecursionError, Refused):
        return {}


def _is_stream(exchange: _Exchange) -> bool:
    """Whether a stream is asked for: in JSON, in a form, in a query, or by a path that answers with nothing else."""
    request = exchange.request
    asked = exchange.fields.get("stream"), request.query.get("stream")
    return True in asked or "true" in asked or request.headers.get("accept") == EVENT_STREAM


def _model(name: str, created: int) -> Json:
    return {"id": name, "object": "model", "created": created, "owned_by": "system"}
