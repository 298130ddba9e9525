"""What a user says about a budget."""

from __future__ import annotations

import re
from collections.abc import Mapping
from decimal import Decimal
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import pydantic
from pydantic import Field

from .core.budget import Kind, Per, Rule
from .keys import Declared, check_name

_SCOPE = re.compile(r"pool|(key|account|model):.+|tag:[^=]+=.+")


class Budget(Declared):
    """What may be spent at most: by the whole pool, or by what `scope` names.

    Before each attempt the most that it can cost is reserved in every budget that concerns it, in all or in none, and
    given back as far as it was not used. An attempt that would go over a budget that blocks is not made: the call is
    served by a key that the budget does not concern, waits while others' reservations may still come back, or fails
    with `BudgetExceeded`. A budget is shared by all processes that declare it for the same pool on the same ledger, and
    outlives them; without a ledger it holds within one process, and so it does for as long as a process that starts
    cannot read or write the ledger. While another program keeps the ledger locked, a call that needs more than its
    process has waits 5 seconds for it, whatever its `max_wait`.

    What is billed stays within a budget as long as no attempt costs more than was reserved for it: a prompt is taken to
    have a token for every two bytes of its text, and an answer as many as its cap (`max_tokens` and the like). Text in
    rare scripts and symbols can have more tokens than that. Without a cap the answer is taken to be as long as those of
    its model rarely are, 4,096 tokens at first. Images, recordings, documents, what a provider keeps
    (`previous_response_id`), tools that it runs and websockets are estimated too. What such an attempt costs beyond is
    charged all the same, and the attempts after it have less.
    Where nobody knows what was billed (a stream that broke off, a call that was cancelled or timed out, a process that
    was killed) what is charged is the whole answer, up to its cap, and a prompt of the usual number of tokens.

    Args:
        usd: US dollars, as written: `0.1` is ten cents.
        per: `day`, `week` (from Monday), `month`, or `total` for all of time.
        scope: `pool`, `key:NAME`, `account:NAME`, `tag:NAME=VALUE`, or `model:PATTERN` such as `model:gpt-4o*`, which
            names models as callers do. Where the pool has no such key or account, or none for such models, clients say
            so once on the logger `keyrouter_openai`.
        action: `block`, or `warn` to be told once (the event `BudgetReached`) and go on.
        name: what errors and events call it; of several of one name and pool all but one are refused. Default: from
            its scope, per and zone.
        zone: the IANA name of the time zone whose days, weeks and months count.
        admit_unpriced: whether attempts of unknown price are made under a budget that blocks, and such as are charged
            by the hour of a recording. They are charged when their cost is known, if ever.

    Raises:
        ConfigError: something makes no sense; the text says what.
    """

    usd: Annotated[Decimal, Field(ge=Decimal("0.000001"), le=10**9)]
    per: Per = "day"
    scope: str = "pool"
    action: Literal["block", "warn"] = "block"
    name: str | None = None
    zone: str = "UTC"
    admit_unpriced: Annotated[bool, Field(strict=True)] = False

    if TYPE_CHECKING:

        def __init__(
            self,
            *,
            usd: Decimal | float | str,
            per: Per = "day",
            scope: str = "pool",
            action: Literal["block", "warn"] = "block",
            name: str | None = None,
            zone: str = "UTC",
            admit_unpriced: bool = False,
        ) -> None: ...

    @classmethod
    def _title(cls, values: Mapping[str, Any]) -> str:
        return f"budget {values.get('name') or values.get('scope', 'pool')!r}"

    @pydantic.field_validator("usd", mode="before")
    @classmethod
    def _usd(cls, value: Any) -> Any:
        return str(value) if isinstance(value, float) else value  # 0.1 means a tenth, not its nearest binary fraction

    @pydantic.field_validator("scope")
    @classmethod
    def _scope(cls, value: str) -> str:
        if not _SCOPE.fullmatch(value):
            raise ValueError(
                f"scope {value!r} names nothing: use pool, key:NAME, account:NAME, tag:NAME=VALUE or model:PATTERN"
            )
        return value

    @pydantic.field_validator("name")
    @classmethod
    def _name(cls, value: str | None) -> str | None:
        return None if value is None else check_name(value, "budget")

    @pydantic.field_validator("zone")
    @classmethod
    def _zone(cls, value: str) -> str:
        try:
            ZoneInfo(value)
        except (ZoneInfoNotFoundError, ValueError, OSError):
            raise ValueError(f"no time zone {value!r}: use an IANA name, such as Europe/Berlin or UTC") from None
        return value

    def rule(self, pool: str) -> Rule:
        """The budget as it is enforced for a pool."""
        kind, _, value = self.scope.partition(":")
        place = "" if self.zone == "UTC" else f" in {self.zone}"
        return Rule(
            # A name means something in its pool alone, as those of keys do.
            id=f"{pool}/{self.name or f'{self.scope}/{self.per}/{self.zone}'}",
            name=self.name or f"{self.scope} per {self.per}{place}",
            pool=pool,
            microusd=int(self.usd * 1_000_000),
            per=self.per,
            zone=ZoneInfo(self.zone),
            kind=cast("Kind", kind),
            value=value,
            blocks=self.action == "block",
            admits_unpriced=self.admit_unpriced,
        )
