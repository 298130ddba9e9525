"""Each file in examples/ runs as it is, on keys from the environment, though its first call meets a rate limit."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from keyrouter_openai.testing import ProviderSimulator, SimAccount

EXAMPLES = Path(__file__).parent.parent / "examples"

# The simulator's models answer with what they were asked.
PRINTS = {
    "one_line_change.py": r"Say hello in one word\.\n",
    "streaming.py": r"Count from one to ten\.\n2 attempt\(s\), answered by key-[12]; completion tokens: [1-9]\d*\n",
    "responses_api.py": r"Name the largest planet\.\nName the smallest one\.\n",
    "sync_client.py": r"(What is the capital of \w+\?\n){3}",
    "pool_in_code.py": (
        r"gpt-4o-mini, answered by (research|support): Say hello in one word\.\n"
        r"o4-mini, answered by research: Say hello in one word\.\n"
        r"answered by support: And goodbye\?\n"
    ),
    "own_objective.py": (
        r"up to 100 tokens, answered by (research|support): Describe the sea\.\n"
        r"up to 4000 tokens, answered by (research|support): Describe the sea\.\n"
    ),
    "tenants.py": r"((acme|globex): (Where is my order\?|Can I change my address\?|Sum up ticket \d\.)\n){5}",
    "events.py": (
        r"AccountParked\(.*'rate_limit'.*\)\n"
        r"KeyStateChanged\(.*new='throttled'.*\)\n"
        r"key-[12]: rate_limit after \d+\.\d\d s\n"
        r"key-[12]: ok after \d+\.\d\d s\n"
        r"key-1 of account \S+ is \w+\n"
        r"key-2 of account \S+ is \w+\n"
    ),
    "files.py": r"When do we meet\? Asked where the file is: True\nnotes\.txt\n",
    "realtime.py": r"Say hello in one word\.\n/realtime with key-[12]: [1-9]\d* completion tokens\n",
    "with_instructor.py": r"Oslo\n",
    "with_langchain.py": r"Count from one to ten\.\n",
    "with_llama_index.py": r"Count from one to ten\.\n",
    "with_openai_agents.py": r"Snow, and 3 degrees\.\n",
    "with_pydantic_ai.py": r"Name a city\.\n",
    "with_semantic_kernel.py": r"Say hello in one word\.\n",
    "with_smolagents.py": r"Observation:\nSnow, and 3 degrees\.\n",
}

# What some need besides the package; tests/libraries/run.py installs the libraries.
LIBRARIES = {
    "realtime.py": "websockets",
    "with_instructor.py": "instructor",
    "with_langchain.py": "langchain_openai",
    "with_llama_index.py": "llama_index.llms.openai",
    "with_openai_agents.py": "agents",
    "with_pydantic_ai.py": "pydantic_ai",
    "with_semantic_kernel.py": "semantic_kernel",
    "with_smolagents.py": "smolagents",
}


def test_every_example_is_run_here() -> None:
    assert {path.name for path in EXAMPLES.iterdir() if path.is_file()} == set(PRINTS)


@pytest.mark.parametrize("name", PRINTS)
def test_example_runs(name: str, tmp_path: Path, record_testsuite_property: Callable[[str, object], None]) -> None:
    if name in LIBRARIES:
        pytest.importorskip(LIBRARIES[name])
    # Our own code must not warn; that of libraries may.
    strict = () if name in LIBRARIES else ("-W", "error")
    with ProviderSimulator([SimAccount("acme"), SimAccount("other")]) as sim:
        sim.fail("rate_limit", times=1, wait=0.2)
        secrets = list(sim.keys.values())
        result = subprocess.run(
            [sys.executable, *strict, EXAMPLES / name],
            env={
                **os.environ,
                "OPENAI_BASE_URL": sim.url,
                "OPENAI_API_KEYS": ",".join(secrets),
                "RESEARCH_API_KEY": secrets[0],
                "SUPPORT_API_KEY": secrets[1],
            },
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    record_testsuite_property(name, result.stdout)
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    assert re.fullmatch(PRINTS[name], result.stdout), result.stdout
    assert sim.count(status=429) == 1
    assert not any(secret in result.stdout for secret in secrets)
