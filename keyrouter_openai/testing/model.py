"""The provider without its HTTP: accounts, keys, limits and credit.

Nothing here does I/O, reads a clock or draws from a random source of its own: `now` (seconds on any clock
that never goes back) and a `random.Random` are handed in, so that a simulation in virtual time can drive it.

Limits work as OpenAI documents them (https://developers.openai.com/api/docs/guides/rate-limits): they belong
to an account and a model, not to a key; they refill continuously; tokens are charged up front as the larger
of `max_tokens` and a quarter of the characters; a request that fails counts as well.
"""

from __future__ import annotations

import math
import string
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from random import Random

from ..core.model import MINUTE
from .account import Account, Admitted, Denied, SimAccount
from .errors import Context
from .limits import Level
from .wire import Reply

_SECRET_CHARS = string.ascii_letters + string.digits


@dataclass(frozen=True, slots=True)
class Latency:
    """How long models take to answer, in seconds. Refusals come at once.

    Args:
        first_byte: median time to the first byte.
        sigma: spread of the time to the first byte; 0 is none, 0.5 is usual for language models (lognormal).
        chunk: time between two events of a stream.
        tokens_per_second: how fast text is generated: it adds to `chunk` in streams, and to the time to the
            first byte in plain answers.
    """

    first_byte: float = 0.0
    sigma: float = 0.0
    chunk: float = 0.0
    tokens_per_second: float = math.inf

    def faster(self, times: float) -> Latency:
        """The same latency where time passes so many times faster."""
        return Latency(self.first_byte / times, self.sigma, self.chunk / times, self.tokens_per_second * times)

    def apply(self, reply: Reply, rng: Random) -> Reply:
        """`reply` with its times filled in."""
        first = self.first_byte * math.exp(rng.gauss(0.0, self.sigma))
        if reply.events is None:
            return replace(reply, delay=first + reply.completion_tokens / self.tokens_per_second)
        return replace(reply, delay=first, pace=self.chunk + 1 / self.tokens_per_second)


@dataclass(frozen=True, slots=True)
class SimKey:
    """One credential. `label` is its name in records and tests: `account-1/key-1`."""

    label: str
    account: str
    secret: str = field(repr=False)


class SimProvider:
    """The books of a provider: who may call what, how much is left, and what is answered where nothing is.

    Args:
        accounts: as they are at the start.
        rng: makes the secrets of keys that were asked for by number.
        minute: how many of the clock's seconds a minute of the limits lasts.
        epoch: the wall-clock time (seconds since 1970) at which the clock is 0, for headers that hold dates.

    Raises:
        ValueError: an account or secret is there twice, or a number makes no sense.
    """

    def __init__(
        self, accounts: Sequence[SimAccount], rng: Random, *, minute: float = MINUTE, epoch: float = 0.0
    ) -> None:
        self._accounts: dict[str, Account] = {}
        self._keys: dict[str, SimKey] = {}
        self._by_secret: dict[str, SimKey] = {}
        self._revoked: set[str] = set()
        for spec in accounts:
            self._add(spec, rng, minute, epoch)

    @property
    def accounts(self) -> dict[str, SimAccount]:
        """The accounts by name, with the limits and the credit that they have now."""
        return {name: account.spec for name, account in self._accounts.items()}

    @property
    def keys(self) -> dict[str, SimKey]:
        """The keys by label."""
        return dict(self._keys)

    def account(self, name: str) -> SimAccount:
        """The account of that name, with the limits and the credit that it has now.

        Raises:
            ValueError: there is none.
        """
        return self._account(name).spec

    def key(self, label: str) -> SimKey:
        """The key of that label.

        Raises:
            ValueError: there is none.
        """
        if label not in self._keys:
            # What was given may be a secret, so it is not repeated.
            raise ValueError(f"no such key: there are {', '.join(self._keys)}")
        return self._keys[label]

    def find_key(self, secret: str | None) -> SimKey | None:
        """The key that a credential belongs to, whether it is still valid or not."""
        return None if secret is None else self._by_secret.get(secret)

    def authenticate(self, secret: str | None, organization: str | None = None, project: str | None = None) -> SimKey:
        """The key of a credential. `organization` and `project` are those named by the caller, if any.

        Raises:
            Denied: no credential, an unknown or revoked one, or one of another organization or project.
        """
        if secret is None:
            raise Denied("no_key")
        key = self._by_secret.get(secret)
        if key is None or key.label in self._revoked:
            raise Denied("key_revoked", lambda: Context(secret=secret))
        spec = self._accounts[key.account].spec
        if organization not in (None, spec.organization):
            raise Denied("wrong_organization")
        if project not in (None, spec.project):
            raise Denied("wrong_project")
        return key

    def admit(self, key: SimKey, model: str, tokens: int, now: float, input_tokens: int | None = None) -> Admitted:
        """Charge a call to the account of `key`.

        Args:
            tokens: what the limits of tokens per minute and per day are charged.
            input_tokens: what the limit of input tokens is charged: those of the prompt that are not cached.
                Default: the same.

        Raises:
            Denied: no such model, no credit, a request above the whole limit, or a limit reached.
        """
        account = self._accounts[key.account]
        spec = account.spec
        if not account.serves(model):
            account.count_failed(model, now)
            known = any(other.serves(model) for other in self._accounts.values())
            error = "model_forbidden" if known else "model_missing"
            raise Denied(error, lambda: Context(project=spec.project, model=model))
        if spec.credit_calls == 0 or spec.credit_tokens == 0:
            raise Denied("quota_exhausted")
        admitted = account.admit(model, tokens, tokens if input_tokens is None else input_tokens, now)
        if spec.credit_calls is not None:
            account.spec = replace(spec, credit_calls=spec.credit_calls - 1)
        return admitted

    def finish(self, admitted: Admitted, at: float, output_tokens: int = 0) -> None:
        """Say when a call ends, now or in the future: then its place is free, and its output charged."""
        admitted.account.finish(admitted.family, at, output_tokens)

    def cached_tokens(self, key: SimKey, prefixes: Sequence[int], block: int, now: float) -> int:
        """How many tokens of a prompt the account's cache has; from now on it has all of them, admitted or not.

        Args:
            prefixes: hashes of the prompt's first block of tokens, its first two, and so on. Models share no
                cache, so the hashes must differ from model to model.
            block: tokens in a block.
        """
        cache = self._accounts[key.account].cache
        return 0 if cache is None else cache.use(prefixes, block, now)

    def drain(self, name: str, model: str, *, requests: float = 0.0, tokens: float = 0.0, now: float) -> None:
        """Let another application use the account: it takes so much from the limits, or what there is.

        Raises:
            ValueError: no such account.
        """
        self._account(name).drain(model, requests, tokens, now)

    def status(self, name: str, model: str, now: float) -> tuple[Level, ...]:
        """The true state of an account's limits for a model.

        Raises:
            ValueError: no such account.
        """
        return self._account(name).levels(model, now)

    def count_failed(self, key: SimKey, model: str, now: float) -> None:
        """Count a request that failed: it uses up a request, too."""
        self._accounts[key.account].count_failed(model, now)

    def bill(self, key: SimKey, tokens: int) -> None:
        """Take the tokens that a served call used from the account's credit."""
        account = self._account(key.account)
        if account.spec.credit_tokens is not None:
            account.spec = replace(account.spec, credit_tokens=max(0, account.spec.credit_tokens - tokens))

    def set_limits(self, name: str, *, rpm: int | None, tpm: int | None, now: float) -> None:
        """Change an account's limits per minute; None is no limit. What was used stays used.

        Raises:
            ValueError: no such account, or a limit below 1.
        """
        account = self._account(name)
        spec = replace(account.spec, rpm=rpm, tpm=tpm)
        spec.check()
        account.resize(spec, now)

    def set_credit(self, name: str, *, calls: int | None, tokens: int | None) -> None:
        """Change an account's credit; None is no end of it.

        Raises:
            ValueError: no such account, or a negative credit.
        """
        account = self._account(name)
        spec = replace(account.spec, credit_calls=calls, credit_tokens=tokens)
        spec.check()
        account.spec = spec

    def revoke(self, label: str) -> None:
        """Make a key invalid."""
        self._revoked.add(self.key(label).label)

    def restore(self, label: str) -> None:
        """Make a revoked key valid again."""
        self._revoked.discard(self.key(label).label)

    def _account(self, name: str) -> Account:
        if name not in self._accounts:
            raise ValueError(f"no account {name!r}: there are {', '.join(self._accounts)}")
        return self._accounts[name]

    def _add(self, spec: SimAccount, rng: Random, minute: float, epoch: float) -> None:
        if spec.name in self._accounts:
            raise ValueError(f"two accounts are called {spec.name!r}: give each its own name")
        spec.check()
        secrets = [_secret(rng) for _ in range(spec.keys)] if isinstance(spec.keys, int) else spec.keys
        shown = {
            "organization": spec.organization or f"org-{spec.name}",
            "project": spec.project or f"proj_{spec.name}",
        }
        self._accounts[spec.name] = Account(replace(spec, **shown), minute=minute, epoch=epoch)
        for number, secret in enumerate(secrets, start=1):
            key = SimKey(f"{spec.name}/key-{number}", spec.name, secret)
            if secret in self._by_secret:
                raise ValueError(f"{key.label} has the secret of {self._by_secret[secret].label}")
            self._keys[key.label] = self._by_secret[secret] = key


def _secret(rng: Random) -> str:
    return "sk-sim-" + "".join(rng.choices(_SECRET_CHARS, k=40))
