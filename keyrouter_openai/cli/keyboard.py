"""Single keys from the terminal, waited for no longer than some time."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager

if sys.platform == "win32":
    import msvcrt

    _LOOK_EVERY_S = 0.05

    @contextmanager
    def _terminal() -> Generator[Callable[[float], str]]:
        yield _key

    def _key(seconds: float) -> str:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if msvcrt.kbhit():
                return msvcrt.getwch()
            time.sleep(_LOOK_EVERY_S)
        return ""

else:
    import termios
    import tty
    from select import select

    @contextmanager
    def _terminal() -> Generator[Callable[[float], str]]:
        terminal = sys.stdin.fileno()
        before = termios.tcgetattr(terminal)
        tty.setcbreak(terminal)  # keys come at once and are not shown; Ctrl-C still interrupts
        try:
            yield _key
        finally:
            termios.tcsetattr(terminal, termios.TCSADRAIN, before)

    def _key(seconds: float) -> str:
        terminal = sys.stdin.fileno()
        if not select([terminal], [], [], seconds)[0]:
            return ""
        return os.read(terminal, 1).decode(errors="replace")


@contextmanager
def keyboard() -> Generator[Callable[[float], str]]:
    """A function that waits so many seconds for a key and says which; an empty string if there was none.

    Where standard input is no terminal, there never is one.
    """
    if sys.stdin.isatty():
        with _terminal() as key:
            yield key
    else:
        yield _no_key


def _no_key(seconds: float) -> str:
    time.sleep(seconds)
    return ""
