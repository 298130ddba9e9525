"""The SDK's own test suite of one version, and a virtual environment in which it runs on our clients."""

from __future__ import annotations

import subprocess
import sys
import tarfile
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

CHECKOUT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Version:
    """A version of the SDK: the checksum of its source distribution, and the packages that its tests need."""

    number: str
    sha256: str
    packages: tuple[str, ...]


# The pins of each version's own lock file.
_EARLIER = (
    "pytest==8.4.2",
    "pytest-asyncio==1.2.0",
    "pytest-xdist==3.8.0",
    "inline-snapshot==0.31.1",
    "rich==14.2.0",
    "trio==0.31.0",
    "griffe==1.14.0",
    "azure-identity==1.25.1",
    "jsonschema==4.25.1",
    "botocore==1.42.97",
)
VERSIONS = {
    version.number: version
    for version in (
        Version(
            "3.54.0",
            "2e393e63f8a38be6452806f9ef0b6534fecd6d41ab3b2165180dfce3599249cd",
            (
                "openai[realtime,aiohttp,datalib,bedrock,vertex]==3.54.0",
                "pytest==9.2.0",
                "pytest-asyncio==1.5.0",
                "pytest-xdist==3.8.0",
                "inline-snapshot==0.36.1",
                "rich==15.*",
                "trio==0.35.*",
                "griffe==2.4.1",
                "azure-identity==1.27.0",
                "Pillow==13.*",
            ),
        ),
        Version(
            "3.3.0",
            "28f904a9fbff15288e9dd67bc0f7020d4f576d37786383a480db02fe5d8139d3",
            ("openai[realtime,aiohttp,datalib,bedrock]==3.3.0", *_EARLIER),
        ),
        Version(
            "2.54.0",
            "e3e6f8bc1ba30ddf381ace1a14340eed381cb984a1a59bd0f34b5be3b5d49cfa",
            (
                "openai[realtime,aiohttp,datalib,bedrock]==2.54.0",
                *_EARLIER,
                "respx==0.22.0",
                "dirty-equals==0.11",
                "nest-asyncio==1.6.0",
                "time-machine==2.19.0",
                "httpx2==2.7.0",
            ),
        ),
    )
}


@dataclass(frozen=True)
class Suite:
    """The tests of one version, ready to run."""

    folder: Path
    python: Path


def prepare(version: Version, cache: Path) -> Suite:
    """Download the tests and make the environment, unless both are in the cache; install the checkout in any case.

    Raises:
        subprocess.CalledProcessError: pip failed: no network, or the distribution is not the one that was pinned.
    """
    place = cache / version.number
    suite = Suite(place / f"openai-{version.number}", place / "venv" / "bin" / "python")
    if not suite.python.exists():
        _run(sys.executable, "-m", "venv", place / "venv")
    _run(suite.python, "-m", "pip", "install", "--quiet", *version.packages, CHECKOUT)
    if not suite.folder.exists():
        _download(version, place, suite.python)
    return suite


def _download(version: Version, place: Path, python: Path) -> None:
    with TemporaryDirectory() as folder:
        pinned = Path(folder) / "requirements.txt"
        pinned.write_text(f"openai=={version.number} --hash=sha256:{version.sha256}\n")
        _run(
            python, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", "openai", "--require-hashes",
            "-r", pinned, "-d", folder,
        )  # fmt: skip
        with tarfile.open(Path(folder) / f"openai-{version.number}.tar.gz") as archive:
            archive.extractall(place, filter="data")


def _run(*command: str | Path) -> None:
    subprocess.run(command, check=True, cwd="/")
