"""How well recorded error answers of real providers are handled: `python tests/benchmarks/real_errors.py FILE`.

FILE has one JSON object a line: `id`, `provider`, `status`, `headers`, `body`, `stream` (`sse` or null) and
`expect`, the class that it should get (or a list of acceptable ones, best first). Each answer is sent by a real
HTTP server on loopback to a `RoutedOpenAI` with two keys of account A and one of account B, and judged by what
then reached the server and what the caller got:

    RAISE         sent once, and raised
    ROTATE_KEY    answered by another key
    PARK_ACCOUNT  answered by B; the other key of A was tried neither then nor by the next call
    EXHAUSTED     the same, and the account is known to be exhausted
    TOO_LARGE     answered by B; a small call may use A afterwards, one of the same size may not
    BACKOFF       no key or account loses standing; sent again after a delay alone, as often as the SDK would
    NOT_HERE      sent once, raised, and no key loses standing

Calls do not wait for capacity, and time is the benchmark's own, so delays cost none. For comparison: what the
classifier alone makes of the answers, and what a table from status to class would.
"""

from __future__ import annotations

import argparse
import json
import logging
from collections import Counter
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
import openai
from pydantic import SecretStr

from keyrouter_openai.client import RoutedOpenAI
from keyrouter_openai.clock import Signal, ThreadSignal
from keyrouter_openai.core.classify import classify
from keyrouter_openai.core.model import Fault
from keyrouter_openai.keys import Key
from keyrouter_openai.providers import PROVIDERS
from keyrouter_openai.router import Router
from keyrouter_openai.testing import ProviderSimulator, SimAccount
from keyrouter_openai.testing.faults import respond

CLASSES: dict[Fault, str] = {
    Fault.REQUEST: "RAISE",
    Fault.KEY_REFUSED: "ROTATE_KEY",
    Fault.NOT_PERMITTED: "ROTATE_KEY",
    Fault.MODEL_MISSING: "ROTATE_KEY",
    Fault.ACCOUNT_CLOSED: "ROTATE_KEY",
    Fault.RATE_LIMIT: "PARK_ACCOUNT",
    Fault.EXHAUSTED: "EXHAUSTED",
    Fault.TOO_LARGE: "TOO_LARGE",
    Fault.OVERLOADED: "BACKOFF",
    Fault.SERVER_ERROR: "BACKOFF",
    Fault.HOST_LIMIT: "BACKOFF",
    Fault.NOT_HERE: "NOT_HERE",
}
BY_STATUS = {401: "ROTATE_KEY", 402: "EXHAUSTED", 403: "ROTATE_KEY", 429: "PARK_ACCOUNT"}
AIM = 0.97
NOW = 1_767_225_600.0
LONG, SHORT = "word " * 4_000, "word"


@dataclass(frozen=True)
class Line:
    """One recorded answer."""

    id: str
    provider: str
    status: int
    headers: dict[str, str]
    body: str
    stream: bool
    expect: tuple[str, ...]


class OwnTime:
    """A clock that a sleep moves on at once."""

    def __init__(self) -> None:
        self.now = NOW
        self.delays = 0

    def monotonic(self) -> float:
        return self.now

    def time(self) -> float:
        return self.now

    async def sleep(self, seconds: float, signal: Signal | None = None) -> None:
        self.sleep_sync(seconds)
        await anyio.lowlevel.checkpoint()

    def sleep_sync(self, seconds: float, signal: ThreadSignal | None = None) -> None:
        self.now += seconds
        self.delays += seconds > 0


class Stage:
    """A simulated provider, a fresh pool of three keys in front of it, and one recorded answer to be given."""

    def __init__(self, sim: ProviderSimulator, line: Line) -> None:
        self.sim, self.line = sim, line
        self.clock = OwnTime()
        provider = line.provider if line.provider in PROVIDERS else "compatible"
        labels = {"a1": "A/key-1", "a2": "A/key-2", "b1": "B/key-1"}
        keys = [
            Key(
                name=name,
                secret=SecretStr(sim.keys[label]),
                provider=provider,
                base_url=sim.url,
                account=label[0],
            )
            for name, label in labels.items()
        ]
        self.client = RoutedOpenAI(router=Router(keys, clock=self.clock), max_wait=0)

    async def call(self, text: str) -> bool:
        """Whether a call was answered; an error of the provider's is not."""
        try:
            if not self.line.stream:
                await self.client.chat.completions.create(model="m", messages=[{"role": "user", "content": text}])
                return True
            stream = await self.client.chat.completions.create(
                model="m", messages=[{"role": "user", "content": text}], stream=True
            )
            return bool([chunk async for chunk in stream])
        except openai.OpenAIError:
            return False

    async def use(self, *names: str) -> None:
        """Have these keys serve a call each, so that the less used come before them."""
        for name in names:
            await self.client.with_routing(key=name).chat.completions.create(
                model="m", messages=[{"role": "user", "content": SHORT}]
            )
            self.clock.now += 1.0
        self.sim.reset_counts()

    def give(self, *, key: str | None = None, account: str | None = None, times: int | None = None) -> None:
        """Answer so many of these calls for model `m` with what was recorded."""
        recorded = respond(self.line.status, self.line.headers, self.line.body)
        self.sim.fail(recorded, key=key, account=account, model="m", times=times)

    @property
    def sent(self) -> list[str | None]:
        """The key of each attempt with model `m` that reached the server, in order."""
        return [call.key for call in self.sim.calls if call.model == "m"]

    @property
    def keeps_standing(self) -> bool:
        """Whether no key or account is worse off; a provider that is paused is not theirs."""
        status = self.client.router.status()
        states = {key.state for key in status.keys} | {account.state for account in status.accounts}
        return not states & {"invalid", "suspect", "exhausted", "disabled"} and not any(
            account.parked for account in status.accounts
        )


A1, B = "A/key-1", "B/key-1"


async def _raised(stage: Stage) -> bool:
    stage.give()
    return not await stage.call(LONG) and stage.sent == [A1]


async def _rotated(stage: Stage) -> bool:
    stage.give(key=A1)
    return await stage.call(LONG) and len(stage.sent) == 2 and stage.sent[0] == A1


async def _parked(stage: Stage) -> bool:
    stage.give(account="A")
    return await stage.call(LONG) and await stage.call(LONG) and stage.sent == [A1, B, B]


async def _exhausted(stage: Stage) -> bool:
    return await _parked(stage) and stage.client.router.status().account("A").state == "exhausted"


async def _too_large(stage: Stage) -> bool:
    stage.give(account="A", times=1)
    if not (await stage.call(LONG) and await stage.call(SHORT) and await stage.call(LONG)):
        return False
    first, second, small, large = stage.sent
    return (first, second, large) == (A1, B, B) and small != B


async def _backed_off(stage: Stage) -> bool:
    stage.give()
    before = stage.clock.delays
    answered = await stage.call(LONG)
    again = len(stage.sent) - 1
    burnt = again > openai.DEFAULT_MAX_RETRIES or again > stage.clock.delays - before
    return not answered and not burnt and stage.keeps_standing


async def _not_here(stage: Stage) -> bool:
    return await _raised(stage) and stage.keeps_standing


JUDGES: dict[str, Callable[[Stage], Coroutine[Any, Any, bool]]] = {
    "RAISE": _raised,
    "ROTATE_KEY": _rotated,
    "PARK_ACCOUNT": _parked,
    "EXHAUSTED": _exhausted,
    "TOO_LARGE": _too_large,
    "BACKOFF": _backed_off,
    "NOT_HERE": _not_here,
}


async def handled(sim: ProviderSimulator, line: Line) -> bool:
    """Whether the router does what one of the expected classes asks for."""
    for expected in line.expect:
        sim.heal()
        sim.reset_counts()
        stage = Stage(sim, line)
        async with stage.client:
            await stage.use("a2", "b1", "b1")
            if await JUDGES[expected](stage):
                return True
    return False


def classified(line: Line) -> bool:
    """Whether the classifier alone names one of the expected classes."""
    failure = classify(provider=line.provider, status=line.status, headers=line.headers, body=line.body, now=NOW)
    return CLASSES[failure.fault] in line.expect


def by_status(line: Line) -> bool:
    """Whether the status alone would have told."""
    guess = BY_STATUS.get(line.status) or ("RAISE" if 400 <= line.status < 500 else "BACKOFF")
    return guess in line.expect


def read(path: Path) -> list[Line]:
    """The recorded answers of a file."""
    lines: list[Line] = []
    for text in path.read_text().splitlines():
        row = json.loads(text)
        expect = row["expect"] if isinstance(row["expect"], list) else [row["expect"]]
        stream = row.get("stream") is not None
        fields = row["id"], row["provider"], row["status"], row["headers"], row["body"]
        lines.append(Line(*fields, stream, tuple(expect)))
    return lines


async def measure(lines: Sequence[Line]) -> dict[str, Any]:
    """The shares that each way gets right, and what the router gets wrong."""
    with ProviderSimulator([SimAccount("A", keys=2), SimAccount("B")]) as sim:
        wrong = [line for line in lines if not await handled(sim, line)]
    total, missed = Counter(line.expect[0] for line in lines), Counter(line.expect[0] for line in wrong)
    return {
        "answers": len(lines),
        "right": len(lines) - len(wrong),
        "share": 1 - len(wrong) / len(lines),
        "classes": {name: {"n": total[name], "right": total[name] - missed[name]} for name in JUDGES if total[name]},
        "wrong": [line.id for line in wrong],
        "share_of_classifier": sum(map(classified, lines)) / len(lines),
        "share_by_status": sum(map(by_status, lines)) / len(lines),
    }


def report(result: dict[str, Any]) -> None:
    """Print the result for people."""
    for name, counts in result["classes"].items():
        print(f"{name:<14}{counts['right']:>4} of {counts['n']}")
    print(f"{'all':<14}{result['right']:>4} of {result['answers']}: {result['share']:.1%}")
    print(f"classifier alone {result['share_of_classifier']:.1%}, status alone {result['share_by_status']:.1%}")
    for wrong in result["wrong"]:
        print("wrong:", wrong)


def main() -> None:
    parser = argparse.ArgumentParser(description="How well recorded error answers are handled.")
    parser.add_argument("file", type=Path, help="JSON lines")
    parser.add_argument("--json", action="store_true", help="print JSON")
    arguments = parser.parse_args()
    logging.getLogger("keyrouter_openai").setLevel(logging.ERROR)  # that keys fail here is the point
    result = anyio.run(measure, read(arguments.file))
    if arguments.json:
        print(json.dumps(result))
    else:
        report(result)
    if result["share"] < AIM:
        raise SystemExit(f"less than {AIM:.0%} are handled right")


if __name__ == "__main__":
    main()
