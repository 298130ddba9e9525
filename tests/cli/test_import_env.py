"""Keys that lie in environment variables go into the vault."""

from __future__ import annotations

import pytest

from keyrouter_openai import Key
from keyrouter_openai.ledger import Registry

from .support import SECRET, Cli


@pytest.fixture(autouse=True)
def no_other_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    providers = ("ANTHROPIC", "CEREBRAS", "DEEPSEEK", "FIREWORKS", "GEMINI", "GROQ", "MISTRAL", "OPENROUTER", "XAI")
    for provider in (*providers, "TOGETHER"):
        monkeypatch.delenv(f"{provider}_API_KEY", raising=False)


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two keys in a list, one of them once more alone, and one of another provider."""
    monkeypatch.setenv("OPENAI_API_KEYS", "sk-canary-1, sk-canary-2,")
    monkeypatch.setenv("OPENAI_API_KEY", "sk-canary-2")
    monkeypatch.setenv("GROQ_API_KEY", "sk-canary-3")


@pytest.mark.usefixtures("environment")
def test_each_secret_becomes_one_key(cli: Cli) -> None:
    vault = f"its secret is in the encrypted file {cli.vault}"
    assert cli.run("keys", "import-env", "--pool", "team").stdout.splitlines() == [
        f"OPENAI_API_KEYS: added to pool 'team' as 'openai'; {vault}",
        f"OPENAI_API_KEYS: added to pool 'team' as 'openai-2'; {vault}",
        "OPENAI_API_KEY: skipped, it is in pool 'team' as 'openai-2'",
        f"GROQ_API_KEY: added to pool 'team' as 'groq'; {vault}",
    ]
    assert Registry(cli.ledger).keys("team") == [
        Key(name="openai"),
        Key(name="openai-2"),
        Key(name="groq", provider="groq"),
    ]
    secrets = [cli.secret(name, "team") for name in ("openai", "openai-2", "groq")]
    assert secrets == ["sk-canary-1", "sk-canary-2", "sk-canary-3"]


@pytest.mark.usefixtures("environment")
def test_again_it_adds_what_is_new_alone(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    cli.run("keys", "import-env")
    before = cli.at_rest()
    assert cli.run("keys", "import-env").stdout.count("skipped") == 4
    assert cli.at_rest() == before
    monkeypatch.setenv("GROQ_API_KEY", "sk-canary-4")
    assert "GROQ_API_KEY: added to pool 'default' as 'groq-2'" in cli.run("keys", "import-env").stdout
    assert (cli.secret("groq"), cli.secret("groq-2")) == ("sk-canary-3", "sk-canary-4")


@pytest.mark.usefixtures("environment")
def test_a_dry_run_does_nothing(cli: Cli) -> None:
    assert cli.run("keys", "import-env", "--dry-run").stdout.splitlines() == [
        "OPENAI_API_KEYS: would be added to pool 'default' as 'openai'",
        "OPENAI_API_KEYS: would be added to pool 'default' as 'openai-2'",
        "OPENAI_API_KEY: skipped, it is in pool 'default' as 'openai-2'",
        "GROQ_API_KEY: would be added to pool 'default' as 'groq'",
    ]
    assert not cli.ledger.exists()
    assert not cli.vault.exists()


def test_openai_keys_go_on_to_where_they_went(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)
    monkeypatch.setenv("OPENAI_BASE_URL", "https://gateway.example/v1")
    monkeypatch.setenv("OPENAI_ORG_ID", "org-1")
    monkeypatch.setenv("OPENAI_PROJECT_ID", "proj_1")
    monkeypatch.setenv("XAI_API_KEY", "sk-canary-xai")
    cli.run("keys", "import-env")
    assert Registry(cli.ledger).keys("default") == [
        Key(name="openai", base_url="https://gateway.example/v1", organization="org-1", project="proj_1"),
        Key(name="xai", provider="xai"),
    ]


def test_nothing_to_import(cli: Cli) -> None:
    result = cli.run("keys", "import-env")
    assert result.stdout == ""
    assert "holds no key" in result.stderr


@pytest.mark.parametrize(
    ("variable", "value", "says"),
    [
        ("OPENAI_API_KEYS", "sk-canary-1,,sk-canary-2", "OPENAI_API_KEYS is malformed at key 2 of 3"),
        ("OPENAI_API_KEYS", "sk-canary-1,sk-canary-1", "OPENAI_API_KEYS holds the same key twice"),
        ("XAI_API_KEY", "sk-canary one", "XAI_API_KEY: key 'xai': the secret holds a newline, a blank"),
        ("OPENAI_BASE_URL", "http://example.com", "OPENAI_API_KEY: key 'openai': base_url 'http://example.com' would"),
    ],
)
def test_one_that_is_wrong_stops_all(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, variable: str, value: str, says: str
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)
    monkeypatch.setenv(variable, value)
    assert says in cli.refuses("keys", "import-env")
