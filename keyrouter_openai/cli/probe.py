"""The test of a key: one call that costs nothing."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass

import anyio
import openai

from keyrouter_openai.client import RoutedOpenAI
from keyrouter_openai.core.model import Fault
from keyrouter_openai.errors import ConfigError
from keyrouter_openai.keys import Key
from keyrouter_openai.ledger import Ledger, default_path
from keyrouter_openai.route import route_of
from keyrouter_openai.router import Router

TIMEOUT_S = 30.0


@dataclass(frozen=True, slots=True)
class Probe:
    """What became of the call. `status` is None where no answer came; `detail` says more where it failed."""

    key: str
    ok: bool
    outcome: Fault
    status: int | None = None
    seconds: float | None = None
    account: str | None = None
    detail: str = ""


def is_overridden() -> bool:
    """Whether OPENAI_CUSTOM_HEADERS sets a credential, which the SDK sends in place of any key's."""
    fields = [line.partition(":") for line in os.environ.get("OPENAI_CUSTOM_HEADERS", "").split("\n")]
    return any(colon and name.strip().lower() == "authorization" for name, colon, _ in fields)


def probe(pool: str, keys: Sequence[Key]) -> list[Probe]:
    """List the models once with each of these keys, which hold their secrets, all at the same time.

    Disabled keys are tried as well. The calls are recorded in the ledger.

    Raises:
        ConfigError: the environment sets another credential for all calls.
    """
    if is_overridden():
        raise ConfigError("OPENAI_CUSTOM_HEADERS sets Authorization, so that no key would be tested: take it out")
    enabled = [key.model_copy(update={"enabled": True}) for key in keys]
    return anyio.run(_probe_all, Router(enabled, pool=pool, ledger=Ledger(default_path())))


async def _probe_all(router: Router) -> list[Probe]:
    results: dict[str, Probe] = {}

    async def run(name: str) -> None:
        results[name] = await _probe_one(client, name)

    once = RoutedOpenAI(router=router, timeout=TIMEOUT_S, max_retries=0, max_attempts=1, max_wait=0.0)
    # At the same time also for this: all leases are taken before the first answer, so that what is learned
    # from one key (its account is parked, its provider at fault) keeps no other from its test.
    async with once as client, anyio.create_task_group() as tasks:
        for key in router.keys:
            tasks.start_soon(run, key.name)
    return [results[key.name] for key in router.keys]


async def _probe_one(client: RoutedOpenAI, name: str) -> Probe:
    problem = ""
    try:
        # Raw, since a base URL that leads to some web page brings no list that could be parsed.
        result = await client.with_routing(key=name).models.with_raw_response.list()
    except openai.OpenAIError as error:
        result = error
    else:
        try:
            json.loads(result.text)
        except ValueError:
            problem = "the answer is no JSON, as of some web page: check base_url"
    attempt = route_of(result).attempts[-1]
    return Probe(
        name,
        ok=attempt.outcome is Fault.NONE and not problem,
        outcome=attempt.outcome,
        status=attempt.status,
        seconds=attempt.seconds,
        account=attempt.account,
        detail=problem or attempt.detail,
    )
