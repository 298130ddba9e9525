"""The SDK's own test suite, run on our clients, with an exact list of what may fail.

    python tests/conformance/run.py [--openai 3.54.0] [--lanes LANE...] [--all] [--wire] [--cache FOLDER]

Needs a package index; the tests are downloaded and not a part of this project. Lanes: `plain` is the SDK itself,
`one-key` our clients as the tests construct them, `pool-of-one` and `pool-of-two` over a pool made of the `api_key`
they are given. --wire compares what `tests/api_resources` puts on the wire, plain and over a pool of one. Ends with
an error if a test fails that may not, or if one does not fail that is on the list.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tomllib
from collections import Counter
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from suite import VERSIONS, Suite, prepare
from wire import ASKS_USAGE, SAME, compare

HERE = Path(__file__).parent
LANES = ("plain", "one-key", "pool-of-one", "pool-of-two")
CORE = (
    "tests/test_client.py",
    "tests/test_auth.py",
    "tests/test_streaming.py",
    "tests/test_response.py",
    "tests/test_legacy_response.py",
    "tests/test_retry_after_overflow.py",
    "tests/test_debug_logging.py",
    "tests/test_x509_workload_identity.py",
    "tests/test_x509_security_boundaries.py",
    "tests/lib/chat",
    "tests/lib/streaming",
)
RESOURCES = "tests/api_resources"
ALL = ["tests"]
ROUTED_SHARE = 0.5
"""Of the calls that tests make, what goes through a router at least: others use the admin key or a provider's."""
LEAST_CALLS = {"3.54.0": 13_000, "3.3.0": 5_000, "2.54.0": 5_000}
"""Calls that all tests of a version make through our clients, at least."""
MOST_SUSPECTS = 20
"""Tests that fail unexpectedly, up to which they are run once more: where more do, something is wrong."""
MINUTES = 30
"""After which a run of pytest is taken to hang."""


@dataclass(frozen=True)
class Result:
    """What came of one lane."""

    lane: str
    passed: Counter[str]
    failed: dict[str, str]
    """Tests that failed, and whether they are sync or async."""
    allowed: frozenset[str]
    requests: int
    routed: int
    least: int
    """Calls below which the clients cannot have been swapped."""

    @property
    def problems(self) -> list[str]:
        """Why the lane is not as it must be."""
        found = [f"FAILED {test}" for test in sorted(self.failed.keys() - self.allowed)]
        found += [f"PASSED, yet it is on the list {test}" for test in sorted(self.allowed - self.failed.keys())]
        if self.lane != "plain" and (self.requests < self.least or self.routed < ROUTED_SHARE * self.requests):
            found.append(f"only {self.routed} of {self.requests} calls were routed: the clients are not swapped")
        return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--openai", choices=VERSIONS, default="3.54.0", help="version of the SDK (default: 3.54.0)")
    parser.add_argument("--lanes", nargs="*", choices=LANES, default=[], help="lanes to run")
    parser.add_argument("--all", action="store_true", help="run all tests, not the core of client, streams and retries")
    parser.add_argument("--wire", action="store_true", help="compare plain and routed on the wire")
    parser.add_argument("--cache", type=Path, help="folder of environments, kept for the next run")
    arguments = parser.parse_args()
    if not arguments.lanes and not arguments.wire:
        parser.error("nothing to run: give --lanes, --wire, or both")
    # Some tests interrupt their children, which would ignore it if this runs in the background of a shell.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with TemporaryDirectory() as scratch:
        suite = prepare(VERSIONS[arguments.openai], (arguments.cache or Path(scratch)).resolve())
        problems: list[str] = []
        for lane in arguments.lanes:
            result = run_lane(suite, arguments.openai, lane, ALL if arguments.all else existing(suite, CORE))
            show(arguments.openai, result)
            problems += result.problems
        if arguments.wire:
            problems += compare_wire(suite, arguments.openai)
    sys.exit(1 if problems else 0)


def existing(suite: Suite, paths: Sequence[str]) -> list[str]:
    """Those of the paths that this version has."""
    return [path for path in paths if (suite.folder / path).exists()]


def run_lane(suite: Suite, version: str, lane: str, paths: Sequence[str]) -> Result:
    """Run tests in one lane, on two workers; what fails there unexpectedly, once more by itself."""
    with TemporaryDirectory() as folder, server(suite) as url, started(suite, lane, paths, url, Path(folder), 2) as run:
        result = result_of(run, Path(folder), version, lane, paths)
    # Some of the SDK's tests race against the clock, which two workers at once can lose.
    suspects = sorted(result.failed.keys() - result.allowed)
    if not 0 < len(suspects) <= MOST_SUSPECTS:
        return result
    with (
        TemporaryDirectory() as folder,
        server(suite) as url,
        started(suite, lane, suspects, url, Path(folder), 0) as run,
    ):
        alone = result_of(run, Path(folder), version, lane, suspects)
    for test in set(suspects) - alone.failed.keys():
        print(f"passed by itself: {test}")
        result.passed[result.failed.pop(test)] += 1
    return result


def compare_wire(suite: Suite, version: str) -> list[str]:
    """Run the tests of all resources plain and over a pool, side by side, and compare the requests; the problems."""
    with TemporaryDirectory() as folder:
        ours, theirs = Path(folder) / "ours", Path(folder) / "theirs"
        ours.mkdir()
        theirs.mkdir()
        with (
            server(suite, theirs / "log") as url,
            server(suite, ours / "log") as our_url,
            started(suite, "plain", [RESOURCES], url, theirs, 0) as plain,
            started(suite, "pool-of-one", [RESOURCES], our_url, ours, 0) as routed,
        ):
            results = [
                result_of(plain, theirs, version, "plain", [RESOURCES]),
                result_of(routed, ours, version, "pool-of-one", [RESOURCES]),
            ]
        found = compare(theirs / "log", ours / "log")
    for result in results:
        show(version, result)
    for difference, count in found.most_common():
        print(f"openai {version}  on the wire    {count:6d} requests: {difference}")
    differences = [difference for difference in found if difference not in (SAME, ASKS_USAGE)]
    return [problem for result in results for problem in result.problems] + differences


@contextmanager
def server(suite: Suite, log: Path | None = None) -> Generator[str]:
    """The server that the tests call; its address."""
    command = [suite.python, HERE / "server.py", *(() if log is None else ("--log", log))]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd="/") as process:
        assert process.stdout is not None
        try:
            yield process.stdout.readline().strip()
        finally:
            process.terminate()


@contextmanager
def started(
    suite: Suite, lane: str, paths: Sequence[str], url: str, folder: Path, workers: int
) -> Generator[subprocess.Popen[bytes]]:
    """Pytest with our plugin, at work on the SDK's tests; its output and report go into `folder`."""
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith(("OPENAI_", "KEYROUTER_"))},
        "TEST_API_BASE_URL": url,
        "CONFORMANCE_LANE": lane,
        "CONFORMANCE_REPORT": str(folder / "report.json"),
        "KEYROUTER_DB": str(folder / "usage.db"),
        "PYTHONPATH": str(HERE),
    }
    command = [str(suite.python), "-m", "pytest", "-q", "-p", "plugin", "-p", "no:cacheprovider", f"-n{workers}"]
    with (
        (folder / "output").open("wb") as output,
        subprocess.Popen(
            [*command, *paths],
            cwd=suite.folder,
            env=environment,
            stdout=output,
            stderr=subprocess.STDOUT,
        ) as process,
    ):
        try:
            yield process
        finally:
            process.terminate()


def result_of(process: subprocess.Popen[bytes], folder: Path, version: str, lane: str, paths: Sequence[str]) -> Result:
    """Wait for a run, and read its report.

    Raises:
        SystemExit: it ended without one.
    """
    process.wait(MINUTES * 60)
    try:
        report: dict[str, Any] = json.loads((folder / "report.json").read_text())
    except FileNotFoundError:
        sys.exit((folder / "output").read_text()[-5000:])
    listed = allowed(version, lane)
    return Result(
        lane=lane,
        passed=Counter(report["passed"]),
        failed=report["failed"],
        allowed=frozenset(test for test in listed if test.startswith(tuple(paths))),
        requests=report["requests"],
        routed=report["routed"],
        least=LEAST_CALLS[version] if paths == ALL else 1,
    )


def allowed(version: str, lane: str) -> set[str]:
    """The tests that must fail in a lane."""
    groups = tomllib.loads((HERE / "exceptions.toml").read_text())["exceptions"]
    return {
        test for group in groups if version in group["openai"] and lane in group["lanes"] for test in group["tests"]
    }


def show(version: str, result: Result) -> None:
    """Print the lines of a lane, and what is wrong with it."""
    excepted = Counter(kind for test, kind in result.failed.items() if test in result.allowed)
    failed = Counter(result.failed.values()) - excepted
    for kind in ("sync", "async"):
        print(
            f"openai {version}  {result.lane:12s} {kind:5s}  {result.passed[kind]:6d} passed  {failed[kind]:3d} failed"
            f"  {excepted[kind]:3d} excepted"
        )
    print(f"openai {version}  {result.lane:12s} {result.requests} calls, {result.routed} of them routed")
    for problem in result.problems:
        print(f"    {problem}")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
