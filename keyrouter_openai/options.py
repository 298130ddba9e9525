"""The SDK's options of a call: what they say to the router, and how one key is put on a copy of them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import urlsplit

from openai import NotGiven, Omit

from ._sdk import Client, Options
from .core.body import estimate
from .core.model import Estimate, RouteRequest
from .core.resources import lasts, mentioned, reading_headers, reading_path
from .errors import ConfigError
from .keys import Key
from .prefix import may_be_cached, prefixes
from .providers import PROVIDERS
from .route import Routing

if TYPE_CHECKING:
    from pydantic import SecretStr

_EMPTY: Mapping[str, object] = {}
_MADE_TOGETHER = (hash("made together"),)
"""In place of a prompt's beginnings: what lasts is made at one account while that serves, as it is used together."""
_USAGE_PATHS = ("/chat/completions", "/completions")
_OF_BODIES = re.compile(r"(?:accept|content|if|x-stainless)\b.*|range|expect|transfer-encoding|idempotency-key", re.I)
"""Headers that speak of what one call sends or gets, or tell the SDK how to read it."""
_ID_SEGMENT = re.compile(r"(?=.*\d)[\w.:-]{6,}|.*[_:].*\d.*|.{25,}")


class Header(str):
    """A header value that holds a credential: prints as `***`, also within options and local variables."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "'***'"


def describe(options: Options, wishes: Routing, *, id: str, stream: bool) -> RouteRequest:
    """A call in the router's words."""
    fields = body_of(options)
    model, tags = fields.get("model"), wishes.tags or {}
    tenant = tags.get("tenant") or fields.get("user") or ""
    size = Tokens(fields, options.url)
    return RouteRequest(
        id=id,
        endpoint=endpoint_of(options.url),
        model=model if isinstance(model, str) else None,
        stream=stream,
        estimate=size.estimate,
        prefixes=size.prefixes,
        tenant=str(tenant),
        urgent=tags.get("priority") != "batch",
        objective=wishes.objective,
        tags={**tags, **wishes.budget_tags} if wishes.budget_tags else tags,
        key=wishes.key,
        account=wishes.account,
    )


class Tokens:
    """What a body says of the tokens that it costs, worked out when first asked for, and at most once."""

    __slots__ = ("_estimate", "_fields", "_prefixes", "_url")

    def __init__(self, fields: Mapping[str, object], url: str) -> None:
        self._fields = fields
        self._url = url
        self._estimate: Estimate | None = None
        self._prefixes: Sequence[int] | None = None

    def estimate(self) -> Estimate:
        """How many they are."""
        if self._estimate is None:
            self._estimate = estimate(self._fields)
        return self._estimate

    def prefixes(self) -> Sequence[int]:
        """Which of them a provider may have in its cache."""
        if self._prefixes is None and lasts("post", self._url, _EMPTY):
            self._prefixes = _MADE_TOGETHER
        if self._prefixes is None:
            cacheable = may_be_cached(self._fields, self.estimate().prompt)
            self._prefixes = prefixes(self._fields, self._url) if cacheable else ()
        return self._prefixes


@lru_cache(maxsize=1024)
def endpoint_of(url: str) -> str:
    """The path of a URL with ids replaced: `/files/file-abc123/content` is `/files/{id}/content`."""
    parts = urlsplit(url).path.split("/")
    return "/".join("{id}" if part and _ID_SEGMENT.fullmatch(part) else part for part in parts)


def mentions(options: Options) -> tuple[str, ...]:
    """The ids that a call names of resources which belong to an account."""
    body = cast("object", options.json_data)  # pyright: ignore[reportUnknownMemberType]
    return mentioned(options.url, options.params, [options.extra_json, body] if options.extra_json else body)


def body_of(options: Options) -> Mapping[str, object]:
    """The fields of the body as it will be sent; empty where it has none."""
    body = cast("object", options.json_data)  # pyright: ignore[reportUnknownMemberType]
    fields = cast("Mapping[str, object]", body) if isinstance(body, Mapping) else _EMPTY
    return {**fields, **options.extra_json} if options.extra_json else fields


def reading(options: Options, id: str) -> Options:
    """The call that looks one resource up on behalf of another, whose headers it brings, but for those of its body."""
    path = reading_path(id)
    assert path is not None, "only what can be read is looked up"
    given = cast("Mapping[str, Any]", {} if isinstance(options.headers, NotGiven) else options.headers)
    headers = {name: value for name, value in given.items() if not _OF_BODIES.fullmatch(name)}
    look = Options.construct(method="get", url=path, headers={**headers, **reading_headers(id)})
    look.timeout = options.timeout
    return look


def may_begin_anew(options: Options) -> bool:
    """Whether a stream that fails before its first content may be asked for again.

    Work that goes on at the provider must not be started twice. Who follows what goes on elsewhere opens the stream
    before there is anything to tell; and with sessions of agents errors are among what it tells.
    """
    only_reads = options.method.lower() == "get"
    return not (only_reads or "/agents/" in options.url or body_of(options).get("background") is True)


def choices(options: Options) -> int:
    """How many choices a chat asks for."""
    asked = body_of(options).get("n")
    return asked if isinstance(asked, int) else 1


def prepare(
    client: Client,
    options: Options,
    key: Key,
    secret: SecretStr | None,
    *,
    number: int,
    idempotency_key: str | None,
    ask_usage: bool,
) -> tuple[Options, bool]:
    """A copy of the options for one attempt with one key, and whether it asks for usage that is to be hidden.

    `secret` is None where the SDK fetches the credential itself (a callable `api_key`).

    Raises:
        ConfigError: the call names an absolute URL on another host than the key's provider.
    """
    given = cast("Mapping[str, Any]", {} if isinstance(options.headers, NotGiven) else options.headers)
    names = {name.lower() for name in given}
    headers: dict[str, Any] = {}
    base, url = _base_url(client, key), options.url
    if _is_absolute(url):
        if base is not None or secret is not None:
            _check_origin(url, base or str(client.base_url), key)
    elif base is not None:
        url = f"{base}/{url.lstrip('/')}"
    if base is not None:
        headers["OpenAI-Organization"] = headers["OpenAI-Project"] = Omit()
    if key.organization is not None:
        headers["OpenAI-Organization"] = key.organization
    if key.project is not None:
        headers["OpenAI-Project"] = key.project
    if number > 1 and "x-stainless-retry-count" not in names:
        headers["x-stainless-retry-count"] = str(number - 1)
    headers = {name: value for name, value in headers.items() if name.lower() not in names}
    if secret is not None:
        headers["Authorization"] = Header(f"Bearer {secret.get_secret_value()}")
    changes = {"max_retries": 0, "idempotency_key": idempotency_key, "url": url, "headers": {**headers, **given}}
    attempt = options.model_copy(update=changes)
    return attempt, _shape_body(attempt, key, ask_usage=ask_usage)


def _base_url(client: Client, key: Key) -> str | None:
    """Where a key is sent, or None for the client's own base URL."""
    if key.base_url is not None:
        return None if key.base_url == str(client.base_url).rstrip("/") else key.base_url
    return None if key.provider == "openai" else PROVIDERS[key.provider].base_url


def _is_absolute(url: str) -> bool:
    return not url.startswith("/") and "://" in url


def _check_origin(url: str, base: str, key: Key) -> None:
    if urlsplit(url)[:2] != urlsplit(base)[:2]:
        raise ConfigError(
            f"key {key.name!r} belongs to {urlsplit(base).netloc} and is not sent to {urlsplit(url).netloc}: "
            "use a path, or give the call its own Authorization header"
        )


def _shape_body(attempt: Options, key: Key, *, ask_usage: bool) -> bool:
    """Rename the model where the key's provider calls it otherwise, and ask for the usage of streams."""
    extra = attempt.extra_json or _EMPTY
    mapped = key.model_map.get(cast("str", body_of(attempt).get("model")))
    if mapped is not None and "model" in extra:  # which goes over the body
        attempt.extra_json = {**extra, "model": mapped}
    if not isinstance(attempt.json_data, Mapping):
        return False
    body = cast("Mapping[str, Any]", attempt.json_data)  # pyright: ignore[reportUnknownMemberType]
    if mapped is not None and "model" not in extra:
        attempt.json_data = body = {**body, "model": mapped}
    if not ask_usage or body.get("stream") is not True or not PROVIDERS[key.provider].stream_usage:
        return False
    if not urlsplit(attempt.url).path.endswith(_USAGE_PATHS) or "stream_options" in extra:
        return False
    asked = body.get("stream_options")
    if isinstance(asked, Mapping) and "include_usage" in asked:
        return False
    settings = cast("dict[str, Any]", asked) if isinstance(asked, Mapping) else dict[str, Any]()
    attempt.json_data = {**body, "stream_options": {**settings, "include_usage": True}}
    return True
