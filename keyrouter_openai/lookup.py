"""Looking up whose a resource is: the accounts are asked in turn, by one call; others wait for what it finds."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import Self

import openai

from .core.model import Fault
from .core.resources import reading_path, reads
from .core.state import KeyState
from .owners import Owners
from .retry import Call


class Search:
    """The search for the owner of one resource, to be ended by leaving its `with` block.

    Accounts that cannot say at once are asked once more at the end, with the patience of the call.

    Args:
        owners: what is known of owners, and is to be told.
        id: the resource.
        call: what names it: owners of what it names with it are asked first.
        among: with whom it is shared: the token of an event loop, or None for threads.
    """

    def __init__(self, owners: Owners, id: str, call: Call, *, among: object) -> None:
        options = call.options
        self._is_call = reads(options.method, options.url, id)
        """It is the call itself that asks, and no look-up of its own."""
        self._is_plain = not self._is_call or options.url.partition("?")[0] == reading_path(id)
        """It is asked for itself: what is in it may be missing though it is there."""
        self._subject = id if self._is_plain else f"{options.url} {options.params}"
        mine: Future[None] = Future()
        self.over = owners.join(self._subject, mine, among=among)
        """Done when the search has come to its end, whatever it found; with the error, if that is not certain."""
        self.is_mine = self.over is mine
        """Whether it is up to this call to ask."""
        self._owners = owners
        self._id = id
        self._among = among
        self._left = deque(owners.candidates(near=call.request.mentions) if self.is_mine else ())
        self._asked: list[KeyState] = []
        self._unsure: list[KeyState] = []
        self._patient = False
        self.refusal: openai.OpenAIError | None = None
        """What the call itself was answered where it is not: the first, or that which says more than that."""
        self._error: openai.OpenAIError | None = None
        """Of the first account that could not say, not even in the end."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.is_mine:
            self._owners.end(self._subject, among=self._among)
            # Where it is known that nobody has it, those who wait need no error to find that out.
            error = self._error or (None if self._is_plain else self.refusal)
            if error is None:
                self.over.set_result(None)
            else:
                self.over.set_exception(error)

    def on_end(self, wake: Callable[[], None]) -> None:
        """Call `wake` when the search has come to its end, on whatever thread that happens."""
        self.over.add_done_callback(lambda _: wake())

    def wait(self) -> None:
        """Block until the search has come to its end, and raise what it failed with: asking again is no better."""
        if (error := self.over.exception()) is not None:
            raise error.with_traceback(None)

    def next(self, call: Call) -> Call | None:
        """The look-up that is to be made next on behalf of a call; None when no account has the resource.

        Raises the error of an account that could not say, where none of the others has it.
        """
        place_of = self._owners.place_of
        while self._left or not self._patient:
            if not self._left:
                self._left, self._asked, self._patient = deque(self._unsure), [], True
                continue
            key = self._left.popleft()
            # Places are told apart now: answers have shown meanwhile which keys share an account.
            if (place := place_of(key)) not in map(place_of, self._asked):
                self._asked.append(key)
                return call.looking_up(self._id, place, patient=self._patient)
        if self._error is not None:
            raise self._error
        if self._is_plain:
            self._owners.found_nowhere(self._id)
        return None

    def found(self, by: Call) -> None:
        """This look-up has found it."""
        self._error = None
        if self._owners.place(self._id) is None:  # the answer did not show its id
            self._owners.learn([self._id], by.lease.state)

    def missed(self, by: Call, error: openai.OpenAIError) -> None:
        """This look-up has not found it: its account does not have it, or could not say."""
        attempts = by.trace.attempts
        is_missing = isinstance(error, openai.NotFoundError)
        if is_missing or (attempts and attempts[-1].outcome is Fault.REQUEST):
            if self._is_call and (
                self.refusal is None or (isinstance(self.refusal, openai.NotFoundError) and not is_missing)
            ):
                self.refusal = error
            return
        key = self._asked[-1]
        if not self._patient:
            self._unsure.append(key)
            return
        self._error = self._error or error
        self._error.add_note(f"whose {self._id} is cannot be told: {self._owners.place_of(key)} could not be asked")
