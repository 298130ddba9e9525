"""The versions of the SDK that this package was tested with."""

from __future__ import annotations

import re

TESTED = "openai>=2.54,<4"
"""As pip takes them."""


def is_tested(version: str) -> bool:
    """Whether a version of the SDK is among them."""
    return [2, 54] <= [int(number) for number in re.findall(r"\d+", version)[:2]] < [4]
