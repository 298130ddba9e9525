"""A provider's cache of prompts: which beginnings of prompts an account has sent lately."""

from __future__ import annotations

import zlib
from collections.abc import Sequence

# The shortest prompt that is cached (https://developers.openai.com/api/docs/guides/prompt-caching).
SHORTEST = 1024


class PromptCache:
    """The cache of one account. What is not used for `ttl` seconds is forgotten."""

    def __init__(self, ttl: float) -> None:
        self._ttl = ttl
        # Hash of a prompt's beginning -> when it was last used; the longest unused comes first.
        self._used: dict[int, float] = {}

    def use(self, prefixes: Sequence[int], block: int, now: float) -> int:
        """How many tokens of a prompt are cached; from now on it all is.

        Args:
            prefixes: hashes of its first block of tokens, its first two, and so on.
            block: tokens in a block.
        """
        used = self._used
        while used and next(iter(used.values())) < now - self._ttl:
            del used[next(iter(used))]
        if len(prefixes) * block < SHORTEST:
            return 0
        warm = next((place for place, prefix in enumerate(prefixes) if prefix not in used), len(prefixes)) * block
        for prefix in prefixes:
            used.pop(prefix, None)
            used[prefix] = now
        return warm if warm >= SHORTEST else 0


def hash_prefixes(model: str, text: str, block: int) -> list[int]:
    """Hashes of a prompt's beginnings, each longer by `block` characters; models share no cache."""
    so_far = zlib.crc32(model.encode(errors="surrogatepass"))
    prefixes: list[int] = []
    for start in range(0, len(text) - block + 1, block):
        so_far = zlib.crc32(text[start : start + block].encode(errors="surrogatepass"), so_far)
        prefixes.append(so_far)
    return prefixes
