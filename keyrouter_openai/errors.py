"""The errors of this package. All derive from `openai.OpenAIError`, so one `except` still catches everything.

    openai.OpenAIError
      KeyRouterError
        ConfigError        an argument, setting or stored key is wrong; nothing was changed
        VaultError         a secret could not be read or written; the text says what to do
        MissingExtra       an optional package is needed; the text has the exact `pip install`
        NoKeyAvailable     no key can serve now; also an `openai.RateLimitError`
"""

from __future__ import annotations

from collections.abc import Mapping

import openai


class KeyRouterError(openai.OpenAIError):
    """Base of everything this package raises on its own account."""


class ConfigError(KeyRouterError):
    """A setting, argument, key or file is wrong. The text names it and says what to do; nothing was changed."""


class VaultError(KeyRouterError):
    """A vault could not read or write a secret. The text says which vault, why, and what to do."""


class MissingExtra(KeyRouterError, ImportError):
    """An optional package is not installed. The text holds the exact command that installs it."""


class NoKeyAvailable(KeyRouterError, openai.RateLimitError):
    """No key of the pool can serve this call now, and nothing was sent.

    Attributes:
        reasons: for each key of the pool by name, why it cannot serve.
        retry_after: seconds until the first key is expected back, or None if none is.
    """

    def __init__(self, message: str, *, reasons: Mapping[str, str], retry_after: float | None) -> None:
        # RateLimitError's own __init__ wants the HTTP response that here does not exist: its fields are
        # filled by _sdk.local_rate_limit_error, which is the only place that makes this error.
        Exception.__init__(self, message)
        self.message = message
        self.reasons = dict(reasons)
        self.retry_after = retry_after
