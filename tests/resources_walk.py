"""Every method of every resource of the installed SDK, called on both routed clients in every form that it has.

    python tests/resources_walk.py     prints how many there are, and what became of them

Resources and methods are found by introspection, and arguments are made up from type hints: what a newer SDK adds is
called as well, or is named as unaccounted for.
"""

from __future__ import annotations

import inspect
import os
import sys
import tempfile
import typing
import warnings
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Required, TypeVar, Union, get_args, get_origin, get_type_hints

import anyio
import openai
from pydantic import BaseModel
from typing_extensions import is_typeddict

from keyrouter_openai import Key, Ledger, RoutedOpenAI, Router, SyncRoutedOpenAI
from keyrouter_openai._sdk import POOL_API_KEY
from keyrouter_openai.testing import ProviderSimulator, SimAccount

NOT_REQUESTED: Mapping[str, str] = {
    "beta.agents.sessions.artifacts.for_result": "makes an object, whose own calls are routed",
    "beta.realtime.connect": "opens a websocket",
    "beta.responses.connect": "opens a websocket",
    "live.connect": "opens a websocket",
    "live.forks.connect": "opens a websocket",
    "live.sideband.connect": "opens a websocket",
    "realtime.connect": "opens a websocket",
    "realtime.translations.connect": "opens a websocket",
    "responses.connect": "opens a websocket",
    "webhooks.unwrap": "reads what the caller has received",
    "webhooks.verify_signature": "reads what the caller has received",
}
"""The methods that do not go through the client's `request`, and why."""

# Arguments of which the type does not tell enough, or that only the provider asks for.
PARTICULAR: Mapping[str, Mapping[str, Any]] = {
    "beta.agents.environments.files.prepare": {"files": {"/workspace/a.py": __file__}},
    "beta.agents.environments.files.prepare_directory": {
        "root": Path(__file__).parent,
        "destination": "/workspace",
        "include": [Path(__file__).name],
    },
    "beta.agents.environments.files.upload": {"path": "/workspace/a.py"},
    "beta.responses.create": {"model": "made-up", "input": "made-up"},
    "responses.create": {"model": "made-up", "input": "made-up"},
}
POOL, ADMIN = ("pool.key-1", "pool.key-2"), "org-pool.admin-key"
ROUTED, PASSED = "routed", "passed through"
NO_SUCH_OBJECT = (400, 404)
"""The statuses with which the simulator may answer for ids that are made up."""
NO_EVENTS = "Session event stream ended before the turn reached idle or failed"
"""What `beta.agents.sessions.stream` makes of the simulator's streams, which end at once."""


@dataclass
class Call:
    """One call by one client: what it sent, and what was recorded of it."""

    method: str
    form: str
    client: str
    stream: bool
    is_helper: bool
    """It makes calls of other methods, so that its requests may be several."""
    sent: list[str] = field(default_factory=list[str])
    """The key of each request as the provider knows it, empty for an unknown credential."""
    credentials: list[int] = field(default_factory=list[int])
    """How many each request has in its headers."""
    recorded: list[str] = field(default_factory=list[str])
    """The key of each attempt in the ledger."""
    error: str = ""

    def __str__(self) -> str:
        return f"{self.client} {self.form}{' with stream=True' * self.stream}"

    @property
    def outcome(self) -> str:
        """`ROUTED`, `PASSED`, or what is wrong."""
        if self.error:
            return f"{self}: {self.error}"
        if not self.sent or (len(self.sent) > 1 and not self.is_helper):
            return f"{self}: {len(self.sent)} requests"
        if self.credentials != [1] * len(self.sent):
            return f"{self}: {self.credentials} credentials"
        if self.method.startswith("admin."):
            keys, recorded, outcome = (ADMIN,), [], PASSED
        else:
            keys, recorded, outcome = POOL, sorted(self.sent), ROUTED
        if set(self.sent) <= set(keys) and sorted(self.recorded) == recorded:
            return outcome
        return f"{self}: sent with {self.sent}, recorded with {self.recorded}"


@dataclass(frozen=True)
class Walk:
    """What became of each method, in all its calls. Two names of one method, as in `beta.chat`, are two methods."""

    outcomes: Mapping[str, set[str]]
    calls: int
    requests: int

    def methods(self, outcome: str) -> list[str]:
        """Those all of whose calls had this outcome."""
        return [method for method, found in self.outcomes.items() if found == {outcome}]

    @property
    def unaccounted(self) -> dict[str, list[str]]:
        """The others, and what is wrong."""
        return {method: sorted(found) for method, found in self.outcomes.items() if found not in ({ROUTED}, {PASSED})}

    def __str__(self) -> str:
        return (
            f"openai {openai.__version__}: {len(self.outcomes)} methods found, {len(self.methods(ROUTED))} routed, "
            f"{len(self.methods(PASSED))} passed through, {len(self.unaccounted)} unaccounted for "
            f"({self.calls} calls, {self.requests} requests)"
        )


async def walk(folder: Path) -> Walk:
    """Call everything, on a pool of one account with two keys, whose ledger goes into `folder`."""
    with ProviderSimulator([SimAccount("pool", keys=2)]) as sim:
        secrets = {_name(label): secret for label, secret in sim.keys.items()}
        keys = [Key(name=name, secret=secrets[name], account="pool") for name in POOL]
        router = Router(keys, ledger=Ledger(folder / "walk.db"))
        settings: dict[str, Any] = {"base_url": sim.url, "admin_api_key": sim.admin_keys["org-pool"], "max_retries": 0}
        walker = _Walker(sim)
        http = openai.DefaultHttpxClient(event_hooks={"request": [walker.look]})
        with SyncRoutedOpenAI(router=router, http_client=http, **settings) as client:
            await walker.call_all("sync", client)
        async_http = openai.DefaultAsyncHttpxClient(event_hooks={"request": [walker.look_async]})
        async with RoutedOpenAI(router=router, http_client=async_http, **settings) as async_client:
            await walker.call_all("async", async_client)
            rows = async_client.ledger.attempts()
    recorded: defaultdict[str, list[str]] = defaultdict(list)
    for row in rows:
        recorded[row["tags"]["call"]].append(row["key"])
    outcomes: dict[str, set[str]] = {method: {PASSED} for method in walker.not_requested}
    for call in walker.calls:
        call.recorded = recorded[str(call)]
        outcomes.setdefault(call.method, set()).add(call.outcome)
    return Walk(outcomes, len(walker.calls), sum(len(call.sent) for call in walker.calls))


class _Walker:
    def __init__(self, sim: ProviderSimulator) -> None:
        self.calls: list[Call] = []
        self.not_requested: set[str] = set()
        self._sim = sim
        self._credentials: list[int] = []

    def look(self, request: Any) -> None:
        """Count the headers of a request that hold a credential, or what stands for that of a pool."""
        values = [value for _, value in request.headers.multi_items()]
        self._credentials.append(sum("sk-" in value or POOL_API_KEY in value for value in values))

    async def look_async(self, request: Any) -> None:
        self.look(request)

    async def call_all(self, name: str, client: Any) -> None:
        """Call every method in each of its forms, plain and with a stream if it takes `stream`."""
        for method in methods_of(client):
            if method in NOT_REQUESTED:
                self.not_requested.add(method)
                continue
            resource, _, last = method.rpartition(".")
            wrapped = [f"{resource}.{wrapper}.{last}" for wrapper in ("with_raw_response", "with_streaming_response")]
            forms = [method, *(form for form in wrapped if _find(client, form))]
            bound = _find(client, method)
            function = getattr(bound, "__func__", bound)  # the one that its overloads are known of
            for stream in (False, True) if "stream" in inspect.signature(function).parameters else (False,):
                for form in forms:
                    call = Call(method, form, name, stream, is_helper=len(forms) == 1)
                    self.calls.append(call)
                    await self._make(call, function, client)

    async def _make(self, call: Call, function: object, client: Any) -> None:
        bound = _find(client.with_routing(tags={"call": str(call)}), call.form)
        self._sim.reset_counts()
        self._credentials.clear()
        try:
            arguments = arguments_of(call.method, function) | ({"stream": True} if call.stream else {})
            await _read(bound(**arguments))
        except openai.APIStatusError as error:
            if error.status_code not in NO_SUCH_OBJECT or "Invalid URL" in error.message:
                call.error = repr(error)
        except (openai.OpenAIError, TypeError, ValueError, AttributeError, LookupError, RuntimeError) as error:
            call.error = "" if NO_EVENTS in str(error) else repr(error)
        call.sent = [_name(request.key or "") for request in self._sim.calls]
        call.credentials = [*self._credentials]


def methods_of(client: object) -> Iterator[str]:
    """The public methods of all resources of a client, by dotted name."""
    for name, value in _members(client):
        if _is_resource(value):
            yield from _methods_under(name, value)


def _methods_under(path: str, resource: object) -> Iterator[str]:
    for name, value in _members(resource):
        if _is_resource(value):
            yield from _methods_under(f"{path}.{name}", value)
        elif callable(value):
            yield f"{path}.{name}"


def _members(value: object) -> list[tuple[str, Any]]:
    names = [name for name in dir(value) if not name.startswith(("_", "with_"))]
    return [(name, getattr(value, name)) for name in names]


def _is_resource(value: object) -> bool:
    return type(value).__module__.startswith("openai.resources.")


def _find(client: object, path: str) -> Any:
    """What is at a dotted path, None if nothing is."""
    for name in path.split("."):
        client = getattr(client, name, None)
    return client


def _name(label: str) -> str:
    """The router's name for one of the simulator's keys."""
    return label.replace("/", ".")


async def _read(answer: Any) -> None:
    """Take all that an answer brings, be it awaited, entered, parsed or streamed."""
    if inspect.isawaitable(answer):
        await _read(await answer)
    elif hasattr(answer, "__aenter__"):
        async with answer as entered:
            await _read_entered(entered)
    elif hasattr(answer, "__enter__"):
        with answer as entered:
            await _read_entered(entered)
    else:
        await _read_entered(answer)


async def _read_entered(answer: Any) -> None:
    if hasattr(answer, "__anext__"):
        async for _ in answer:
            pass
    elif hasattr(answer, "__next__"):
        for _ in answer:
            pass
    elif hasattr(answer, "stream_to_file"):
        await _read(answer.read())
    elif hasattr(answer, "http_response"):
        await _read(answer.parse())


# -- arguments


class Made(BaseModel):
    """What is asked for where a method takes a type."""

    text: str


EXAMPLES: Mapping[object, Any] = {
    bool: True,
    bytes: b"made up",
    float: 1.0,
    int: 1,
    object: "made-up",
    os.PathLike[str]: Path(__file__),
    str: "made-up",
}


def arguments_of(method: str, function: Any) -> dict[str, Any]:
    """The least arguments that a method takes, `stream` apart.

    Raises:
        TypeError: one is of a kind that is not known here.
    """
    signature: Any = next(iter(typing.get_overloads(function)), function)
    given, hints = PARTICULAR.get(method, {}), get_type_hints(signature, include_extras=True)
    needed = [
        parameter.name
        for parameter in inspect.signature(signature).parameters.values()
        if parameter.default is parameter.empty and parameter.name not in ("self", "stream")
    ]
    hurry = {"poll_interval_ms": 1} if "poll_interval_ms" in hints else {}
    return {name: made_up(hints[name]) for name in needed if name not in given} | hurry | dict(given)


def made_up(kind: Any) -> Any:
    """Something of this type, as small as can be.

    Raises:
        TypeError: it is of a kind that is not known here.
    """
    origin, arguments = get_origin(kind), get_args(kind)
    if kind in EXAMPLES:
        return EXAMPLES[kind]
    if origin is Literal:
        return arguments[0]
    if origin in (Annotated, Required):
        return made_up(arguments[0])
    if origin in (Union, UnionType):
        return _made_up_of_any(arguments)
    if origin in (list, Iterable, Sequence):
        return [made_up(arguments[0])]
    if origin in (dict, Mapping):
        return {}
    if origin is type:
        return Made
    if isinstance(kind, TypeVar) and kind.__bound__:
        return kind.__bound__()
    if is_typeddict(kind):
        hints, total = get_type_hints(kind, include_extras=True), getattr(kind, "__total__", True)
        return {name: made_up(hint) for name, hint in hints.items() if get_origin(hint) is Required or total}
    raise TypeError(f"no argument can be made up for {kind!r}")


def _made_up_of_any(kinds: Iterable[Any]) -> Any:
    for kind in kinds:
        try:
            return made_up(kind)
        except TypeError:
            pass
    raise TypeError(f"no argument can be made up for any of {kinds!r}")


def main() -> int:
    warnings.simplefilter("ignore", DeprecationWarning)
    with tempfile.TemporaryDirectory() as folder:
        done = anyio.run(walk, Path(folder))
    print(done)
    for method, wrong in done.unaccounted.items():
        print(f"{method}:", *wrong, sep="\n    ")
    return 1 if done.unaccounted else 0


if __name__ == "__main__":
    sys.exit(main())
