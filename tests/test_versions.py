"""The versions of the SDK that are supported, and what differs between them."""

from __future__ import annotations

import inspect
import subprocess
import sys
from typing import Any

import pytest
from openai import AsyncOpenAI, OpenAI

from keyrouter_openai import RoutedOpenAI, SyncRoutedOpenAI, _sdk


def imported_with(version: str) -> str:
    """What is said when the client is imported twice with an SDK of this version."""
    program = f"import openai; openai.__version__ = {version!r}\n" + "from keyrouter_openai import RoutedOpenAI\n" * 2
    ended = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    return ended.stderr


@pytest.mark.parametrize("version", ["2.53.9", "4.0.0rc1", "unknown"])
def test_an_untested_version_is_said_once(version: str) -> None:
    said = imported_with(version)
    assert said.count("RuntimeWarning") == 1
    assert f"keyrouter_openai is not tested with openai {version}: install 'openai>=2.54,<4'" in said


def test_a_tested_version_is_silent() -> None:
    program = "from keyrouter_openai import *; import keyrouter_openai.testing"
    ended = subprocess.run([sys.executable, "-W", "error", "-c", program], check=False, capture_output=True, text=True)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")


@pytest.mark.parametrize(("door", "sdk"), [(RoutedOpenAI, AsyncOpenAI), (SyncRoutedOpenAI, OpenAI)])
@pytest.mark.parametrize("method", ["__init__", "copy", "with_options"])
def test_each_argument_of_the_sdk_is_taken_with_its_default(door: Any, sdk: Any, method: str) -> None:
    ours, theirs = (inspect.signature(getattr(client, method)).parameters for client in (door, sdk))
    assert {name: ours[name].default for name in theirs} == {name: theirs[name].default for name in theirs}


def test_the_http_library_is_the_one_of_the_sdk() -> None:
    assert isinstance(OpenAI(api_key="sk-a")._client, _sdk.httpx2.Client)  # pyright: ignore[reportPrivateUsage]


def test_the_http_library_is_not_loaded_during_a_call() -> None:
    program = "import sys; from keyrouter_openai import RoutedOpenAI; assert 'httpx2' in sys.modules"
    subprocess.run([sys.executable, "-c", program], check=True)
