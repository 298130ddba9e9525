"""Old attempts go, what they add up to stays, and the file can be checked."""

from __future__ import annotations

import time

import pytest

from keyrouter_openai.core.model import Usage
from keyrouter_openai.ledger import Ledger, database
from tests.ledger.support import attempt

from .support import Cli, record

DAY = 86_400


@pytest.fixture
def two_months(cli: Cli) -> None:
    now = time.time()
    record(cli, *(attempt(at=now - days * DAY, usage=Usage(prompt=days), cost_microusd=days) for days in (1, 40, 60)))


@pytest.mark.usefixtures("two_months")
class TestLedger:
    def test_what_is_old_goes_and_its_sums_stay(self, cli: Cli) -> None:
        usage = cli.json("usage", "--by", "day")
        assert "Deleted 2 attempts from before" in cli.run("ledger", "compact", "--keep", "30d").stdout
        assert len(Ledger(cli.ledger).attempts()) == 1
        assert cli.json("usage", "--by", "day") == usage

    def test_as_json(self, cli: Cli) -> None:
        (done,) = cli.json("ledger", "compact", "--keep", "7w")
        assert (done["path"], done["deleted"], done["not_shrunk"]) == (str(cli.ledger), 1, None)
        assert done["before"] % 3600 == 0

    def test_by_default_it_keeps_a_quarter_of_a_year(self, cli: Cli) -> None:
        assert cli.json("ledger", "compact")[0]["deleted"] == 0

    def test_a_sound_file(self, cli: Cli) -> None:
        assert cli.run("ledger", "check").stdout == f"Nothing is wrong with {cli.ledger}.\n"
        assert cli.json("ledger", "check") == []

    def test_a_file_whose_sums_are_wrong(self, cli: Cli) -> None:
        with database.writing(cli.ledger) as connection:
            connection.execute("update hours set prompt_tokens = prompt_tokens + 1 where attempts = 1")
        assert "are not those of its attempts" in cli.run("ledger", "check", exit_code=1).stdout
        assert len(cli.json("ledger", "check", exit_code=1)) == 3

    @pytest.mark.parametrize("age", ["90", "d", "90 days", "-1d", "1.5d"])
    def test_an_age_that_is_none(self, cli: Cli, age: str) -> None:
        assert "is no age: write it as 12h, 90d or 52w" in cli.refuses("ledger", "compact", f"--keep={age}")


def test_without_a_file_there_is_nothing_to_do(cli: Cli) -> None:
    assert "Deleted 0 attempts" in cli.run("ledger", "compact").stdout
    assert "Nothing is wrong" in cli.run("ledger", "check").stdout
    assert not cli.ledger.exists()
