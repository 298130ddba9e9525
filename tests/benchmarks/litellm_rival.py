"""LiteLLM's Router as a contestant. It runs in an interpreter of its own that has `litellm`, and in real time.

The router is LiteLLM's own, whole: it chooses, retries, cools down and counts, and it keeps time in native code,
which cannot be told another. So a scenario takes as long as it lasts; what can be is played side by side. The
provider is `VirtualProvider` all the same, behind one of LiteLLM's custom handlers, which answers a refusal with its
429 or 401 and the `retry-after` that the provider named.

One deployment is made of each key, with its share of its account's limits as `tpm` and `rpm` (LiteLLM cannot be told
that keys share limits). Settings are LiteLLM's defaults but for the number of retries, which is as many as there are
keys, and the timeout of an attempt, which is none. After `PATIENCE` nothing is sent any more.
"""

from __future__ import annotations

import asyncio
import importlib
import logging
import os
import pickle
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Generator, Iterator
from contextlib import suppress
from typing import Any, cast

import openai

from contestants import MODEL, PATIENCE, Scenario, Score, World, named_wait, world_of
from keyrouter_openai.testing.virtual import Answer, VirtualCall, VirtualTime

STRATEGIES = {
    "litellm shuffle": "simple-shuffle",
    "litellm usage": "usage-based-routing-v2",
    "litellm busy": "least-busy",
}
"""Contestants, and what LiteLLM calls their way of choosing."""


def run_elsewhere(python: str, scenario: Scenario) -> dict[str, Score]:
    """What LiteLLM makes of a scenario, by contestant, with an interpreter that has it. It plays no scripts."""
    running: dict[str, subprocess.Popen[bytes]] = {}
    for name, strategy in STRATEGIES.items():
        command = [python, __file__, strategy]
        running[name] = process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert process.stdin is not None
        process.stdin.write(pickle.dumps(scenario))
        process.stdin.flush()
    return {name: pickle.loads(process.communicate()[0]) for name, process in running.items()}


class RealTime(VirtualTime):
    """The simulation's time, which follows the time that really passes, from `begin` on."""

    def begin(self) -> None:
        self._began = time.monotonic()

    def follow(self) -> float:
        """Move on to the present."""
        self.now = time.monotonic() - self._began
        return self.now


async def drive(clock: RealTime, steps: Generator[float, None, Answer]) -> Answer:
    """Take steps of the simulation, each at its time."""
    try:
        until = next(steps)
        while True:
            await asyncio.sleep(until - clock.follow())
            clock.follow()
            until = steps.send(None)
    except StopIteration as stop:
        return stop.value


def play_scenario(scenario: Scenario, strategy: str) -> Score:
    """Let LiteLLM's Router play a scenario."""
    calls = scenario.make_calls()
    clock = RealTime()
    world = world_of(scenario, clock)
    asyncio.run(play_calls(world, clock, calls, strategy))
    return world.score(calls, clock.follow())


async def play_calls(world: World, clock: RealTime, calls: list[VirtualCall], strategy: str) -> None:
    """Make each call at its time."""
    router = make_router(world, clock, calls, strategy)

    async def one(place: int) -> None:
        # What is not served is known from the call. ValueError: no deployment is available.
        with suppress(openai.OpenAIError, ValueError):
            await router.acompletion(model=MODEL, messages=[{"role": "user", "content": str(place)}])

    # What LiteLLM imports and makes when it is first called takes seconds.
    await cast(Any, importlib.import_module("litellm")).acompletion(model=MODEL, messages=[], mock_response="")
    clock.begin()
    async with asyncio.TaskGroup() as tasks:
        for place, call in enumerate(calls):
            await asyncio.sleep(call.at - clock.follow())
            tasks.create_task(one(place))


def make_router(world: World, clock: RealTime, calls: list[VirtualCall], strategy: str) -> Any:
    """LiteLLM's Router, with a deployment of each key, and the provider behind them."""
    litellm, httpx = (cast(Any, importlib.import_module(name)) for name in ("litellm", "httpx"))

    async def answer(_: object, *, messages: list[dict[str, str]], api_key: str, **__: object) -> object:
        call, sent_at = calls[int(messages[0]["content"])], clock.follow()
        if sent_at > call.at + PATIENCE:
            raise litellm.BadRequestError("too late", model=MODEL, llm_provider="virtual")
        answered = await drive(clock, world.provider.attempt(api_key, call))
        if answered.refusal is None:
            call.sent_at, call.ended_at = sent_at, clock.follow()
            return litellm.ModelResponse(
                usage=litellm.Usage(prompt_tokens=call.prompt_tokens, completion_tokens=call.completion_tokens)
            )
        wait = named_wait(answered.refusal, exact=False)
        headers = {} if wait is None else {"retry-after": str(wait)}
        response = httpx.Response(answered.refusal.status, headers=headers, request=httpx.Request("POST", "http://x"))
        error = litellm.RateLimitError if answered.refusal.status == 429 else litellm.AuthenticationError
        raise error("refused", llm_provider="virtual", model=MODEL, response=response)

    handler = type("Handler", (litellm.CustomLLM,), {"acompletion": answer})()
    litellm.custom_provider_map = [{"provider": "virtual", "custom_handler": handler}]
    litellm.suppress_debug_info = True
    logging.getLogger("LiteLLM Router").setLevel(logging.CRITICAL)
    logging.getLogger("LiteLLM").setLevel(logging.CRITICAL)
    return litellm.Router(
        model_list=list(deployments(world)), routing_strategy=strategy, num_retries=len(world.secrets), timeout=3600.0
    )


def deployments(world: World) -> Iterator[dict[str, object]]:
    """A deployment of each key, with its share of its account's limits."""
    books = world.provider.books
    keys = Counter(key.account for key in books.keys.values())
    for label, key in books.keys.items():
        spec = books.account(key.account)
        limits = {"rpm": (spec.rpm or 0) // keys[key.account], "tpm": (spec.tpm or 0) // keys[key.account]}
        yield {
            "model_name": MODEL,
            "model_info": {"id": label},
            "litellm_params": {"model": f"virtual/{MODEL}", "api_key": key.secret, **limits},
        }


if __name__ == "__main__":
    os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"
    score = play_scenario(pickle.load(sys.stdin.buffer), sys.argv[1])
    sys.stdout.buffer.write(pickle.dumps(score))
