"""Programs of their own, against a simulated provider."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from textwrap import dedent

from keyrouter_openai import Ledger

PRELUDE = """
    import asyncio, os, sys, threading
    from keyrouter_openai import RoutedOpenAI, SyncRoutedOpenAI

    CHAT = {"model": "gpt-4o", "messages": [{"role": "user", "content": "The quick brown fox"}]}
"""
"""What each program begins with. Its keys, address and ledger come from the environment (see `conftest`)."""


class Program:
    """A program in a file, as `multiprocessing` needs it to start others, and what its calls left in the ledger."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / "program.py"
        self.ledger = Ledger(folder / "usage.db")

    def run(self, source: str, *, python: str = sys.executable, noise: str = "") -> str:
        """Run it to its end, which must be a good one, with no other complaint than `noise`; what it printed."""
        self._file.write_text(dedent(PRELUDE) + dedent(source))
        ended = subprocess.run([python, self._file], check=False, capture_output=True, text=True, timeout=300)
        complaint = "" if noise and noise in ended.stderr else ended.stderr
        assert (ended.returncode, complaint) == (0, ""), ended.stderr
        return ended.stdout

    def outcomes(self) -> list[str]:
        """What became of each attempt on record."""
        return sorted(row["outcome"] for row in self.ledger.attempts())
