"""The commands with a real OS keyring, also one that hangs."""

from __future__ import annotations

import sys

import pytest

from keyrouter_openai.testing import ProviderSimulator
from tests.secret_service import SecretService

from .support import SECRET, Cli, at_terminal

IMPATIENT = "from keyrouter_openai.cli import keystore, main; keystore.PATIENCE_S = 0.1; main()"

pytestmark = [
    pytest.mark.secret_service,
    # The keyring package leaves its connection to the garbage collector where a call fails.
    pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning"),
]


@pytest.fixture(autouse=True)
def keyring(cli: Cli, secret_service: SecretService, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KEYROUTER_VAULT")


def test_add_list_test_remove(cli: Cli, sim: ProviderSimulator) -> None:
    secret = sim.keys["A/key-1"]
    added = cli.run("keys", "add", "work", "--base-url", sim.url, input=secret)
    assert added.stdout == "Added key 'work' to pool 'default'; its secret is in the OS keyring (SecretService).\n"
    assert [key["name"] for key in cli.json("keys", "list")] == ["work"]
    assert [(row["key"], row["ok"]) for row in cli.json("keys", "test")] == [("work", True)]
    assert sim.by_key()["A/key-1"] == 1
    assert {row["result"] for row in cli.json("doctor")} == {"ok"}
    cli.run("keys", "remove", "work", "--yes")
    assert cli.json("keys", "list") == []
    cli.run("keys", "add", "work", "--base-url", sim.url, input=secret)  # as if it had never been there


def test_a_locked_keyring(cli: Cli, secret_service: SecretService) -> None:
    cli.add("work")
    secret_service.lock()
    assert "Unlock or restart the keyring and try again" in cli.refuses("keys", "add", "other", input=SECRET)
    found = {row["check"]: row for row in cli.json("doctor", exit_code=1)}
    assert found["vault"]["result"] == "fail"
    assert "Unlock or restart the keyring" in found["vault"]["detail"]
    assert found["pool default"]["result"] == "warn"


class TestThatHangs:
    @pytest.fixture(autouse=True)
    def frozen(self, cli: Cli, secret_service: SecretService, monkeypatch: pytest.MonkeyPatch) -> None:
        cli.add("work")
        monkeypatch.setattr("keyrouter_openai.cli.keystore.PATIENCE_S", 0.1)
        secret_service.freeze()

    def test_scripts_give_up(self, cli: Cli) -> None:
        for arguments in (["keys", "add", "other"], ["keys", "test"], ["keys", "remove", "work", "--yes"]):
            assert "gave no answer within 0.1 s" in cli.refuses(*arguments, input=SECRET)

    def test_the_doctor_gives_up(self, cli: Cli) -> None:
        found = {row["check"]: row for row in cli.json("doctor", exit_code=1)}
        assert "gave no answer within 0.1 s: if it asks for a password" in found["vault"]["detail"]
        assert found["pool default"]["result"] == "warn"

    def test_a_person_is_told_of_it_and_may_give_up(self, cli: Cli) -> None:
        before = cli.at_rest()
        with at_terminal("keys", "add", "other", command=[sys.executable, "-c", IMPATIENT]) as person:
            person.answers("Secret: ", SECRET)
            person.reads("\nStill waiting for the OS keyring")
            person.interrupts()
            code, output = person.sees_in_the_end()
        assert code == 130
        assert "Interrupted." in output
        assert cli.at_rest() == before
