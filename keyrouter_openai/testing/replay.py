"""Play a load against a provider, on time, and keep what became of each call.

It needs the OpenAI SDK, whose errors it takes as answers.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from time import monotonic

import anyio
import openai

from .generate import CHARS_PER_TOKEN
from .load import Arrival, Load

WRONG_ANSWER = "another call's answer"
UNFINISHED = "no answer in time"

_FILLER = "The quick brown fox jumps over the lazy dog. "

Ask = Callable[[str, int], Awaitable[str | None]]
"""Sends a prompt, with the most tokens to answer, and returns the answer's text."""


@dataclass(frozen=True, slots=True)
class Result:
    """What became of one call. `error` says in a few words why it failed, and is None if it did not."""

    error: str | None
    seconds: float
    """From when the call was due until its end."""
    late: float
    """Seconds from when it was due until it was sent: above some tenths, this machine is too slow for the load."""


async def play(load: Load, ask: Ask, *, patience: float, done: Callable[[Result], None]) -> list[Result]:
    """Send each request of a load when it is due, whatever became of those before, and check each answer.

    Prompts are as long as the load says, at four characters a token, and begin with a number of their own.
    The simulator answers with the beginning of the prompt, so each answer shows whose it is.

    Args:
        patience: seconds after the load's end at which the calls that are still out are cancelled.
        done: told of each call at its end.

    Returns:
        A result for each request, in order of arrival.
    """
    end = load.seconds + patience
    results = [Result(UNFINISHED, end - arrival.at, end - arrival.at) for arrival in load.arrivals]
    longest = max(arrival.prompt_tokens for arrival in load.arrivals) * CHARS_PER_TOKEN
    filler = _FILLER * (longest // len(_FILLER) + 1)
    begin = monotonic()

    async def call(number: int, arrival: Arrival) -> None:
        prompt = f"{number:0{CHARS_PER_TOKEN}x}{filler}"[: arrival.prompt_tokens * CHARS_PER_TOKEN]
        most = max(arrival.completion_tokens, 1)
        due = begin + arrival.at
        late = monotonic() - due
        results[number] = Result(UNFINISHED, end - arrival.at, late)
        try:
            answer = await ask(prompt, most)
            error = None if answer == prompt[: most * CHARS_PER_TOKEN] else WRONG_ANSWER
        except openai.OpenAIError as problem:
            error = in_words(problem)
        results[number] = Result(error, monotonic() - due, late)
        done(results[number])

    with anyio.move_on_after(end):
        async with anyio.create_task_group() as calls:
            for number, arrival in enumerate(load.arrivals):
                # Calls that are due start together: a pause between them would make a late sender later.
                if (early := begin + arrival.at - monotonic()) > 0:
                    await anyio.sleep(early)
                calls.start_soon(call, number, arrival)
    return results


def in_words(error: openai.OpenAIError) -> str:
    """The status with the provider's code, or else the error's class; never the text, which may quote a key."""
    name = type(error).__name__
    return f"{error.status_code} {error.code or name}" if isinstance(error, openai.APIStatusError) else name
