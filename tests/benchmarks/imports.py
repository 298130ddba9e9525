"""What `import keyrouter_openai` costs beside `import openai`: milliseconds of fresh interpreters, paired in one run.

    python tests/benchmarks/imports.py [--runs N]

Each statement is run in an interpreter of its own, in turn with the others; the time is CPU time from its start to
its end, less that of an interpreter that imports nothing, and the median over the runs is printed. The second table
holds what our statements import beyond openai's.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
from statistics import median

PAIRS = {
    "import openai": "import keyrouter_openai",
    "from openai import AsyncOpenAI": "from keyrouter_openai import RoutedOpenAI",
}
"""What a program says without and with this package."""


def cpu_of(statement: str) -> float:
    """CPU milliseconds of an interpreter that runs `statement`."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-c", statement], check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return (after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime) * 1000


def modules_of(statement: str) -> set[str]:
    """The modules that are loaded after `statement`."""
    shown = subprocess.run(
        [sys.executable, "-c", f"{statement}; import sys; print(*sys.modules)"],
        check=True,
        capture_output=True,
        text=True,
    )
    return set(shown.stdout.split())


def main() -> None:
    parser = argparse.ArgumentParser(description="import time of keyrouter_openai beside openai")
    parser.add_argument("--runs", type=int, default=15, help="interpreters for each statement (default 15)")
    runs = parser.parse_args().runs
    statements = ["pass", *(statement for pair in PAIRS.items() for statement in pair)]
    for statement in statements:
        cpu_of(statement)  # writes the byte code
    times: dict[str, list[float]] = {statement: [] for statement in statements}
    for _ in range(runs):
        for statement in statements:
            times[statement].append(cpu_of(statement))

    print(f"{'CPU, median of ' + str(runs):<42} {'ms':>8} {'more':>8}")
    idle = median(times["pass"])
    for theirs, ours in PAIRS.items():
        more = median(a - b for a, b in zip(times[ours], times[theirs], strict=True))
        print(f"{theirs:<42} {median(times[theirs]) - idle:>8.1f}")
        print(f"{ours:<42} {median(times[ours]) - idle:>8.1f} {more:>+8.1f}")
    for theirs, ours in PAIRS.items():
        added = sorted(modules_of(ours) - modules_of(theirs))
        print(f"\n{ours}: {len(added)} modules more")
        print(*(f"  {name}" for name in added), sep="\n")


if __name__ == "__main__":
    main()
