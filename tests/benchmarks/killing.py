"""Processes that make calls and are killed with -9 at random moments, and what is on record of them."""

from __future__ import annotations

import os
import signal
import sqlite3
import sys
from contextlib import closing
from pathlib import Path
from random import Random
from subprocess import PIPE, Popen
from textwrap import dedent
from typing import NamedTuple

from keyrouter_openai.ledger import Ledger

# One process imports everything and forks a child for each kill. A child prints the id of each answer that it has got
# by one write, as its parent kills it without warning.
_PROGRAM = """
    import asyncio, os, sys
    from keyrouter_openai import Budget, RoutedOpenAI

    CHAT = {"model": "gpt-4o", "messages": [{"role": "user", "content": "The quick brown fox"}]}

    async def call(client, stream):
        if not stream:
            return (await client.chat.completions.create(**CHAT))._request_id
        answer = await client.chat.completions.create(**CHAT, stream=True)
        async for _ in answer:
            pass
        return answer.response.headers["x-request-id"]

    async def calls(client, number):
        while True:
            os.write(1, f"{await call(client, stream=number % 3 == 0)}\\n".encode())

    async def main():
        client = RoutedOpenAI(ledger=sys.argv[1], budgets=[Budget(usd=1000, per="total")])
        await asyncio.gather(*(calls(client, number) for number in range(8)))

    for _ in sys.stdin:
        if (child := os.fork()) == 0:
            asyncio.run(main())
        os.write(1, f"child {child}\\n".encode())
        os.waitpid(child, 0)
        os.write(1, b"dead\\n")
"""


class Killed(NamedTuple):
    """What became of the calls of processes that were killed."""

    printed: set[str]
    """The provider's ids of the answers that had reached their callers."""
    recorded: list[dict[str, object]]
    """The attempts on record."""

    @property
    def missing(self) -> set[str]:
        """Answers that had reached their callers and are not on record."""
        return self.printed - {str(row["provider_request_id"]) for row in self.recorded}

    @property
    def doubled(self) -> int:
        """Rows of attempts that have another row."""
        return len(self.recorded) - len({(row["request_id"], row["number"]) for row in self.recorded})

    @property
    def abandoned(self) -> list[dict[str, object]]:
        """Rows of attempts that were under way."""
        return [row for row in self.recorded if row["detail"] == "killed"]


def kill(path: Path, kills: int, rng: Random) -> Killed:
    """Kill so many processes that make eight calls at a time, each after some answers. The keys are in the environment.

    What the last has left stays in its journal until the ledger is asked.
    """
    printed: set[str] = set()
    with Popen([sys.executable, "-c", dedent(_PROGRAM), path], stdin=PIPE, stdout=PIPE, text=True) as program:
        assert program.stdin is not None
        assert program.stdout is not None
        for _ in range(kills):
            program.stdin.write("go\n")
            program.stdin.flush()
            child, left = 0, rng.randrange(1, 120)
            while (line := program.stdout.readline().strip()) != "dead":
                if line.startswith("child "):
                    child = int(line.removeprefix("child "))
                else:
                    printed.add(line)
                    left -= 1
                if child and left <= 0:
                    os.kill(child, signal.SIGKILL)
                    left = 1_000_000
        program.stdin.close()
    return Killed(printed, Ledger(path).attempts())


def hours_that_differ(path: Path) -> int:
    """How many roll-ups are not the sum of their rows. Raises if the file is damaged."""
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("pragma integrity_check").fetchone() == ("ok",)
        by_rows = """
            select cast(at / 3600 as int) * 3600, pool, key, account, provider, coalesce(model, ''), outcome, tags,
                count(*), sum(prompt_tokens), sum(cached_tokens), sum(completion_tokens), sum(cost_microusd),
                sum(prompt_tokens is not null and cost_microusd is null)
            from attempts group by 1, 2, 3, 4, 5, 6, 7, 8
        """
        rolled_up = set(connection.execute("select * from hours"))
        return len(rolled_up ^ set(connection.execute(by_rows)))


def budgets_that_differ(path: Path) -> int:
    """How many budgets are not what their rows add up to, or have something set aside for a process that is dead.

    Every attempt counts towards the one budget that there is.
    """
    with closing(sqlite3.connect(path)) as connection:
        billed = connection.execute("select sum(cost_microusd) from attempts").fetchone()
        (spent,) = connection.execute("select spent_microusd from budget_windows")
        (set_aside,) = connection.execute("select count(*) from allowances").fetchone()
        return (spent != billed) + set_aside
