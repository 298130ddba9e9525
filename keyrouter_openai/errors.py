"""The errors of this package. All derive from `openai.OpenAIError`, so one `except` still catches everything.

openai.OpenAIError
  KeyRouterError
    ConfigError        an argument, setting or stored key is wrong; nothing was changed
    VaultError         a secret could not be read or written; the text says what to do
    MissingExtra       an optional package is needed; the text has the exact `pip install`
    OwnerError         the call names what no single account has; nothing was sent
    NoKeyAvailable     no key can serve now; also an `openai.RateLimitError`
    BudgetExceeded     a budget does not allow it; also an `openai.RateLimitError`
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

import openai


class KeyRouterError(openai.OpenAIError):
    """Base of everything this package raises on its own account."""


class ConfigError(KeyRouterError):
    """A setting, argument, key or file is wrong. The text names it and says what to do; nothing was changed."""


class VaultError(KeyRouterError):
    """A vault could not read or write a secret. The text says which vault, why, and what to do."""


class MissingExtra(KeyRouterError, ImportError):
    """An optional package is not installed. The text holds the exact command that installs it."""


class OwnerError(KeyRouterError):
    """No single account can serve a call: what it names belongs to several, or to another than the one asked for.

    The text names ids and accounts and says what to do. Nothing was sent.
    """


class NoKeyAvailable(KeyRouterError, openai.RateLimitError):
    """No key of the pool can serve this call now, and nothing was sent.

    `response` is made here, with status 429 and the header `retry-after`, for code that reads it.

    Attributes:
        reasons: for each key of the pool by name, why it cannot serve.
        retry_after: seconds until the first key is expected back, or None if none is.
    """

    def __init__(self, message: str, *, response: Any, reasons: Mapping[str, str], retry_after: float | None) -> None:
        body = {"message": message, "type": "keyrouter_error", "code": "no_key_available", "param": None}
        openai.RateLimitError.__init__(self, message, response=response, body=body)
        self.reasons = dict(reasons)
        self.retry_after = retry_after


class BudgetExceeded(KeyRouterError, openai.RateLimitError):
    """A budget of the caller's own does not allow this call, and nothing was sent.

    `response` is made here, with status 429 and the header `retry-after`, for code that reads it.

    Attributes:
        budget: the name of the budget.
        left_usd: US dollars that it has left.
        opens_at: when its next window begins, in its time zone; None where it has but one.
        retry_after: seconds until then, or until what is reserved for calls under way may have come back; None if
            waiting does not help.
    """

    def __init__(
        self,
        message: str,
        *,
        response: Any,
        budget: str,
        left_usd: float,
        opens_at: datetime | None,
        retry_after: float | None,
    ) -> None:
        body = {"message": message, "type": "keyrouter_error", "code": "budget_exceeded", "param": None}
        openai.RateLimitError.__init__(self, message, response=response, body=body)
        self.budget = budget
        self.left_usd = left_usd
        self.opens_at = opens_at
        self.retry_after = retry_after
