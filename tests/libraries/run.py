"""Each library at a known version, in a virtual environment of its own: its tests, and its example.

    python tests/libraries/run.py [LIBRARY...]

The package is installed in it as its users do. Needs a package index; takes a minute or two for each library.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import time
import venv
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from xml.etree import ElementTree

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True, slots=True)
class Library:
    """A library and the SDK that it is tried with. `name` is that in tests/libraries/ and examples/."""

    name: str
    requirement: str
    openai: str


# The newest versions that install together, of the library and then of the SDK.
LIBRARIES = (
    Library("openai_agents", "openai-agents==0.24.0", "3.54.0"),
    Library("pydantic_ai", "pydantic-ai-slim[openai]==2.68.0", "3.54.0"),
    Library("langchain", "langchain-openai==1.7.3", "3.54.0"),
    Library("semantic_kernel", "semantic-kernel==1.45.0", "3.54.0"),
    Library("smolagents", "smolagents[openai]==1.26.0", "3.54.0"),
    Library("instructor", "instructor==1.17.0", "3.3.0"),
    Library("llama_index", "llama-index-llms-openai==0.8.3", "2.54.0"),
)


@dataclass(frozen=True, slots=True)
class Outcome:
    """How the tests of one library went, and what its example printed."""

    passed: int
    not_passed: int
    """Failed, or skipped: here nothing may be missing."""
    install_seconds: float
    megabytes: float
    printed: str


def main() -> int:
    """Try the libraries that are named, or all. Returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = [library.name for library in LIBRARIES]
    parser.add_argument("library", nargs="*", help=f"of: {', '.join(names)} (default: all)")
    wanted: list[str] = parser.parse_args().library
    if unknown := sorted(set(wanted) - set(names)):
        parser.error(f"no library {', '.join(unknown)}: there are {', '.join(names)}")

    outcomes = {library: _try(library) for library in LIBRARIES if library.name in (wanted or names)}
    print(f"\n{'library':<34}{'openai':<9}{'passed':>7}{'not':>5}{'install':>9}{'size':>9}")
    for library, outcome in outcomes.items():
        print(
            f"{library.requirement:<34}{library.openai:<9}{outcome.passed:>7}{outcome.not_passed:>5}"
            f"{outcome.install_seconds:>7.0f} s{outcome.megabytes:>6.0f} MB"
        )
    for library, outcome in outcomes.items():
        print(f"\nexamples/with_{library.name}.py printed:\n{outcome.printed.rstrip()}")
    return int(any(outcome.not_passed or not outcome.passed for outcome in outcomes.values()))


def _try(library: Library) -> Outcome:
    with TemporaryDirectory() as folder:
        work = Path(folder)
        began = time.monotonic()
        python = _install(library, work / "venv")
        seconds = time.monotonic() - began
        # Beside the checkout's tests, and not in it, so that what is imported is what was installed.
        for part in ("tests", "examples"):
            shutil.copytree(ROOT / part, work / part, ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(ROOT / "pyproject.toml", work)
        example = f"with_{library.name}.py"
        chosen = (f"tests/libraries/test_{library.name}.py", f"tests/test_examples.py::test_example_runs[{example}]")
        pytest = (python, "-m", "pytest", "-p", "no:cacheprovider", "--junitxml=report.xml", *chosen)
        subprocess.run(pytest, cwd=work, check=False)
        size = sum(file.stat().st_size for file in (work / "venv").rglob("*") if file.is_file())
        return _read(work / "report.xml", example, seconds, size / 1e6)


def _install(library: Library, home: Path) -> Path:
    venv.create(home, with_pip=True)
    python = home / "bin" / "python"
    requirements = [f"{ROOT}[test]", library.requirement, f"openai=={library.openai}"]
    subprocess.run([python, "-m", "pip", "install", "--quiet", *requirements], check=True)
    return python


def _read(report: Path, example: str, seconds: float, megabytes: float) -> Outcome:
    suite = ElementTree.parse(report).getroot().find("testsuite")
    assert suite is not None
    not_passed = sum(int(suite.attrib[kind]) for kind in ("failures", "errors", "skipped"))
    printed = suite.find(f".//property[@name='{example}']")
    return Outcome(
        int(suite.attrib["tests"]) - not_passed,
        not_passed,
        seconds,
        megabytes,
        printed.attrib["value"] if printed is not None else "nothing: it was not run",
    )


if __name__ == "__main__":
    sys.exit(main())
