"""The private seams of the SDK's websockets, as `_sdk` has those of its calls.

A resource's `connect` makes a manager, and the manager opens the connection in one step, which it repeats to
reconnect. That step is what is taken over. Resources are found by what they are, so that those of a newer SDK are
routed too, or are refused on a pool: no connection is opened with a credential that is none.
"""

# pyright: reportPrivateUsage=false

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cached_property, wraps
from importlib.util import find_spec
from operator import attrgetter
from typing import Any, TypeVar, cast

from openai import AsyncOpenAI, OpenAI

from ._sdk import POOL_API_KEY, Client, Options, has_authorization, httpx2
from .errors import ConfigError

_C = TypeVar("_C", bound=Client)

_url: ContextVar[Any] = ContextVar("keyrouter_openai_socket_url", default=None)
"""Where the connection goes that this task is opening, if not to the client's own address."""


_STAYS = find_spec("openai.lib._websocket") is not None
"""Whether this SDK itself follows no redirects to other hosts; earlier versions do, with the credential."""


def routes_sockets(routed: type[_C]) -> type[_C]:
    """Decorates a client: whatever of its resources opens a websocket has it opened with a key of the client's pool."""
    sdk = AsyncOpenAI if issubclass(routed, AsyncOpenAI) else OpenAI
    for name, made in _resources(sdk):
        prop = cached_property(lambda client, made=made: _route(client, made.func(client)))
        prop.__doc__ = made.__doc__
        prop.__set_name__(routed, name)
        setattr(routed, name, prop)
    return routed


def _resources(kind: type) -> Iterator[tuple[str, cached_property[Any]]]:
    """The resources that objects of the SDK's class give access to, by name; views of the same ones are none."""
    for name, made in vars(kind).items():
        if isinstance(made, cached_property) and not name.startswith("with_"):
            yield name, cast("cached_property[Any]", made)


_paths: dict[type, tuple[str, ...]] = {}
"""By class of resource: where in it there is a `connect`, as dotted names."""


def _route(client: Client, resource: Any) -> Any:
    kind: type[Any] = resource.__class__
    if kind not in _paths:
        _paths[kind] = tuple(_find(resource, ""))
    for path in _paths[kind]:
        found = attrgetter(path[1:])(resource) if path else resource
        found.connect = _routed(client, found.connect)
    return resource


def _find(resource: Any, path: str) -> Iterator[str]:
    if hasattr(resource, "connect"):
        yield path
    kind: type[Any] = resource.__class__
    for name, _ in _resources(kind):
        yield from _find(getattr(resource, name), f"{path}.{name}")


def _routed(client: Client, connect: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(connect)
    def routed(*args: Any, **arguments: Any) -> Any:
        if not _STAYS and isinstance(client, AsyncOpenAI) and find_spec("websockets") is not None:
            from .sockets import StayingConnection

            given = cast("Mapping[str, object]", arguments.get("websocket_connection_options") or {})
            arguments["websocket_connection_options"] = {"create_connection": StayingConnection, **given}
        manager = connect(*args, **arguments)
        if not hasattr(manager, "_connect_ws"):
            if client.api_key == POOL_API_KEY and not has_authorization(arguments.get("extra_headers")):
                raise ConfigError(
                    f"{connect.__module__}: this connect() takes no key of a pool. Use another, such as "
                    "client.realtime.connect(), or give extra_headers= an Authorization of your own"
                )
        elif find_spec("websockets") is not None:  # else the SDK says what to install, once it is to connect
            from .sockets import take_over

            take_over(cast("Any", client), Dial(client, manager, arguments.get("model")))
        return manager

    return routed


class Dial:
    """The one step in which a manager opens its connection, and reopens it where it reconnects."""

    def __init__(self, client: Client, manager: Any, model: object) -> None:
        self.open: Any = manager._connect_ws
        """Open a connection, with additions to the query and to the headers."""
        self._client = client
        self._manager = manager
        self._model = model
        self._own_url: Callable[[], Any] = manager._prepare_url
        manager._prepare_url = lambda: _url.get() or self._own_url()

    def replace(self, opens: Callable[[Mapping[str, object], Mapping[str, Any]], Any]) -> None:
        """Have connections opened by `opens`, which takes what `open` takes."""
        self._manager._connect_ws = opens

    def options(self, query: Mapping[str, object], headers: Mapping[str, Any]) -> Options:
        """The upgrade as the options of a call, whose body names the model, if one is known."""
        model = query.get("model", self._model)
        base = httpx2.URL(self._client.websocket_base_url or self._client.base_url)
        return Options.construct(
            method="get",
            url=self._own_url().path.removeprefix(base.path.rstrip("/")),
            params=dict(query),
            headers=dict(headers),
            json_data={"model": model} if isinstance(model, str) else None,
            security={"bearer_auth": True},
        )

    @contextmanager
    def to(self, prepared: Options) -> Generator[None]:
        """Within this block connections are opened to the address of prepared options."""
        url = httpx2.URL(prepared.url)
        token = _url.set(url.copy_with(scheme=url.scheme.replace("http", "ws")) if url.host else None)
        try:
            yield
        finally:
            _url.reset(token)

    def query(self, query: Mapping[str, object], prepared: Options) -> Mapping[str, object]:
        """The additions to the query, with the model as it is called where the prepared options go."""
        body = cast("Mapping[str, object]", prepared.json_data or {})
        renamed = body.get("model") != query.get("model", self._model) and "model" in body
        return {**query, **body} if renamed else query
