"""`python -m keyrouter_openai.testing`, the simulator as a server of its own."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

from keyrouter_openai._sdk import httpx2


def test_the_command_prints_its_url_and_keys_and_serves_until_interrupted() -> None:
    command = [sys.executable, "-m", "keyrouter_openai.testing", "--port", "0", "--accounts", "2", "--keys", "2"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        url = process.stdout.readline().split()[-1]
        keys = dict(process.stdout.readline().split() for _ in range(4))
        assert list(keys) == ["account-1/key-1", "account-1/key-2", "account-2/key-1", "account-2/key-2"]
        admins = dict(process.stdout.readline().rsplit(maxsplit=1) for _ in range(2))
        assert list(admins) == ["admin of org-account-1", "admin of org-account-2"]
        headers = {"Authorization": f"Bearer {admins['admin of org-account-2']}"}
        assert httpx2.get(f"{url}/organization/costs?start_time=0", headers=headers).status_code == 200
        headers = {"Authorization": f"Bearer {keys['account-2/key-2']}"}
        answer = httpx2.get(f"{url}/models", headers=headers)
        assert answer.headers["openai-organization"] == "org-account-2"
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=10) == 0


@pytest.mark.parametrize(
    ("arguments", "status", "complaint"),
    [
        (["--keys", "0"], 2, "account 'account-1' has no keys"),
        (["--rpm", "0"], 2, "rpm is 0"),
        (["--help"], 0, "Example: python -m keyrouter_openai.testing --accounts 3"),
    ],
)
def test_the_command_says_what_is_wrong(arguments: list[str], status: int, complaint: str) -> None:
    command = [sys.executable, "-m", "keyrouter_openai.testing", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == status
    assert complaint in " ".join((done.stdout + done.stderr).split())
