"""The admin key, and what the command refuses."""

from __future__ import annotations

import pytest

from keyrouter_openai.testing import ProviderSimulator, redirect, respond
from tests.cli.support import Cli


class TestAdminKey:
    def test_rests_in_the_vault(self, cli: Cli, sim: ProviderSimulator, monkeypatch: pytest.MonkeyPatch) -> None:
        says = cli.refuses("reconcile", "--base-url", sim.url)
        assert "--set-admin-key" in says and "OPENAI_ADMIN_KEY" in says
        cli.run("reconcile", "--set-admin-key", input=sim.admin_keys["acme"] + "\n")
        assert cli.secret("openai", "_admin") == sim.admin_keys["acme"]
        assert cli.json("reconcile", "--base-url", sim.url) == []
        assert cli.json("keys", "list") == []
        monkeypatch.setenv("OPENAI_ADMIN_KEY", "sk-admin-unknown")
        assert "answered 401" in cli.refuses("reconcile", "--base-url", sim.url)
        monkeypatch.delenv("OPENAI_ADMIN_KEY")
        cli.run("reconcile", "--forget-admin-key")
        assert cli.secret("openai", "_admin") is None

    def test_no_pool_can_have_its_place(self, cli: Cli) -> None:
        assert "is not a usable name for a pool" in cli.refuses("keys", "add", "openai", "--pool", "_admin")

    @pytest.mark.parametrize("bad", ["", "two words", "zwei\nzeilen"])
    def test_what_is_no_key(self, cli: Cli, bad: str) -> None:
        assert "the secret" in cli.refuses("reconcile", "--set-admin-key", input=bad)

    def test_another_key_will_not_do(self, cli: Cli, sim: ProviderSimulator, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("OPENAI_ADMIN_KEY", sim.keys["A/key-1"])
        says = cli.refuses("reconcile", "--base-url", sim.url)
        assert "asked what it bills, answered 403: is this an admin key" in says

    def test_goes_nowhere_else(self, cli: Cli, sim: ProviderSimulator, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("OPENAI_ADMIN_KEY", sim.admin_keys["acme"])
        unencrypted = cli.refuses("reconcile", "--base-url", "http://example.com/v1")
        assert "would send the key over the network unencrypted" in unencrypted
        with ProviderSimulator() as elsewhere:
            monkeypatch.setenv("OPENAI_BASE_URL", elsewhere.url)
            sim.fail(redirect(elsewhere.url + "/organization/usage/completions"))
            assert "answered 307" in cli.refuses("reconcile", "--base-url", sim.url)
            assert elsewhere.calls == []
        monkeypatch.setenv("OPENAI_CUSTOM_HEADERS", "Authorization: Bearer sk-canary")
        assert "OPENAI_CUSTOM_HEADERS sets Authorization" in cli.refuses("reconcile", "--base-url", sim.url)

    def test_an_unusable_variable(self, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("OPENAI_ADMIN_KEY", "sk-admin-\ncanary")
        assert "OPENAI_ADMIN_KEY: the secret holds a newline" in cli.refuses("reconcile")

    def test_nobody_answers(self, cli: Cli, sim: ProviderSimulator, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("OPENAI_ADMIN_KEY", sim.admin_keys["acme"])
        monkeypatch.setattr("openai._base_client.INITIAL_RETRY_DELAY", 0.0)
        sim.fail("disconnect")
        assert "did not answer" in cli.refuses("reconcile", "--base-url", sim.url)

    @pytest.mark.parametrize("body", ["<html>", {"error_free": True}])
    def test_something_else_answers(
        self, cli: Cli, sim: ProviderSimulator, monkeypatch: pytest.MonkeyPatch, body: object
    ) -> None:
        monkeypatch.setenv("OPENAI_ADMIN_KEY", sim.admin_keys["acme"])
        sim.fail(respond(200, body=body))
        assert "what answered is no admin API" in cli.refuses("reconcile", "--base-url", sim.url)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--since", "yesterday"], "'yesterday' is no day: write it as 7d, 2w (ago) or 2026-11-01"),
        (["--until", "2026-13-01"], "is no day"),
        (["--since", "2026-11-02", "--until", "2026-11-02"], "there is no day between --since and --until"),
        (["--by", "day,colour"], "cannot compare by colour: use day, model and key"),
        (["--map", "work"], "write it as ID=NAME, such as key_abc=work"),
        (["--tolerance", "-1"], "not in the range"),
    ],
)
def test_what_makes_no_sense(cli: Cli, arguments: list[str], says: str) -> None:
    assert says in cli.refuses("reconcile", *arguments)
