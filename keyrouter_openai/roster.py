"""All routers of this process: a child starts anew with them after a fork, and `top` is told how they stand."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING
from weakref import WeakValueDictionary

from .protocols import Recorder

if TYPE_CHECKING:
    from .router import Router

_routers: WeakValueDictionary[int, Router] = WeakValueDictionary()


def enrol(router: Router) -> None:
    """Count a router among those of this process, for as long as somebody uses it."""
    _routers[id(router)] = router


def snapshot(ledger: Recorder) -> str:
    """How the pools stand whose attempts go into a ledger: a JSON array of `PoolStatus`, which holds no secret."""
    return json.dumps([asdict(router.status()) for router in _all() if router.ledger is ledger])


def _all() -> list[Router]:
    """The routers there are, also while another thread makes one."""
    return [router for made in _routers.valuerefs() if (router := made()) is not None]


def _after_fork_in_child() -> None:
    for router in _all():
        router.after_fork()


if sys.platform != "win32":
    os.register_at_fork(after_in_child=_after_fork_in_child)
