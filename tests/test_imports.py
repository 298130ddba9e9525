"""Imports cost little, and run one way."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import keyrouter_openai

PACKAGE = "keyrouter_openai"
HOME = Path(keyrouter_openai.__file__).parent

LAYERS = (
    ("core",),
    ("errors", "providers", "sdk_versions", "keys", "budget"),
    ("events", "protocols", "clock", "pool", "status", "prices", "price_table", "route"),
    ("vaults", "sinks", "ledger"),
    ("lease", "learning", "allocate", "owners", "forecasts", "roster", "budgets", "books", "telling", "router"),
    (
        *("exchange", "bodies", "_sdk", "_sdk_sockets", "failures", "prefix", "options", "hedging", "retry", "lookup"),
        *("_sdk_requests", "_sdk_connections", "config", "pages", "sockets", "drop_in", "attaching", "reconcile"),
        "expense",
    ),
    ("client", "client_sync"),
    ("testing",),
    ("cli",),
)
"""From the ground up: what is in one may import what is in the same or in those before it."""

IMPURE = {"anyio", "asyncio", "httpx", "httpx2", "logging", "openai", "os", "socket", "sqlite3", "threading", "time"}
"""What `core` has no use for: it decides, and others act."""


def modules() -> list[Path]:
    return sorted(HOME.rglob("*.py"))


def layer_of(module: str) -> int:
    """The layer of a module of this package, by its full name."""
    room = module.split(".")[1]
    if room in keyrouter_openai.__all__:
        room = getattr(keyrouter_openai, room).__module__.split(".")[1]
    return next(place for place, rooms in enumerate(LAYERS) if room in rooms)


def name_of(path: Path) -> str:
    """The full name of the module in a file."""
    return ".".join((PACKAGE, *path.relative_to(HOME).with_suffix("").parts)).removesuffix(".__init__")


def imports_of(path: Path, *, with_types: bool) -> Iterator[str]:
    """The full names of what a module imports, at its top or in its functions: modules, and names in them.

    `with_types` tells whether what is imported for annotations alone counts.
    """
    here = name_of(path).split(".")
    package = here if path.name == "__init__.py" else here[:-1]
    todo: list[ast.AST] = [ast.parse(path.read_text())]
    while todo:
        node = todo.pop()
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING" and not with_types:
            continue
        todo += ast.iter_child_nodes(node)
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            source = ".".join([*base, *([node.module] if node.module else [])])
            yield from (f"{source}.{name.name}" for name in node.names)


@cache
def loaded_by(statement: str) -> set[str]:
    """The modules that a fresh interpreter has after `statement`."""
    command = [sys.executable, "-c", f"{statement}; import sys; print(*sys.modules)"]
    return set(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split())


@pytest.mark.parametrize("what", ["RoutedOpenAI", "SyncRoutedOpenAI", "Key", "Router", "Ledger", "route_of"])
def test_what_most_programs_do_not_need_is_not_imported(what: str) -> None:
    loaded = loaded_by(f"from {PACKAGE} import {what}")
    heavy = {"click", "cryptography", "h11", "keyring", "platformdirs", "rich", "sqlite_utils", "tenacity", "trio"}
    heavy |= {f"{PACKAGE}.cli", f"{PACKAGE}.testing", "genai_prices"}
    assert loaded & (heavy - loaded_by("from openai import AsyncOpenAI")) == set()


def test_the_package_alone_imports_nothing() -> None:
    assert not [name for name in loaded_by(f"import {PACKAGE}") if name.startswith((f"{PACKAGE}.", "openai"))]


@pytest.mark.parametrize("path", modules(), ids=name_of)
def test_imports_run_one_way(path: Path) -> None:
    if path.parent == HOME and path.name == "__init__.py":
        return  # it names what lies in all layers, and imports it when asked to
    layer = layer_of(name_of(path))
    ours = {name for name in imports_of(path, with_types=False) if name.startswith(f"{PACKAGE}.")}
    assert not {name for name in ours if layer_of(name) > layer}


def test_imports_make_no_circle() -> None:
    names = {name_of(path): path for path in modules()}
    graph: dict[str, set[str]] = {}
    for module, path in names.items():
        imported = imports_of(path, with_types=False)
        graph[module] = {name if name in names else name.rpartition(".")[0] for name in imported} & names.keys()
        graph[module] -= {module, PACKAGE}
    TopologicalSorter(graph).prepare()


@pytest.mark.parametrize("path", modules(), ids=name_of)
def test_only_one_module_knows_the_private_names_of_the_sdk(path: Path) -> None:
    private = {name for name in imports_of(path, with_types=True) if name.startswith(("openai._", "openai.lib._"))}
    assert not private or path == HOME / "_sdk.py"


@pytest.mark.parametrize("path", sorted((HOME / "core").rglob("*.py")), ids=name_of)
def test_the_core_is_pure(path: Path) -> None:
    """No I/O, no clock, no chance of its own, no SDK, and nothing to wait for."""
    used = set(imports_of(path, with_types=True))
    assert not {name for name in used if name.split(".")[0] in IMPURE}
    assert not {name for name in used if name.startswith("random") and name != "random.Random"}
    tree = list(ast.walk(ast.parse(path.read_text())))
    assert not [node for node in tree if isinstance(node, ast.Await | ast.AsyncFunctionDef)]
    clocks = {"now", "today", "utcnow"}
    assert not [node for node in tree if isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] in clocks]
