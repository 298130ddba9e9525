"""The provider without its HTTP: accounts, keys, limits and credit.

Nothing here does I/O, reads a clock or draws from a random source of its own: `now` (seconds on any clock
that never goes back) and a `random.Random` are handed in, so that a simulation in virtual time can drive it.

Limits work as OpenAI documents them (https://developers.openai.com/api/docs/guides/rate-limits): they belong
to an account and a model, not to a key; they refill continuously; tokens are charged up front as the larger
of `max_tokens` and a quarter of the characters; a request that fails counts as well.
"""

from __future__ import annotations

import math
import re
import string
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from random import Random

from .errors import Context, error_reply
from .wire import Refused, Reply, go_duration

MINUTE = 60.0
REQUESTS, TOKENS = "requests", "tokens"

_DATE = re.compile(r"-\d{4}-\d{2}-\d{2}$")
_SECRET_CHARS = string.ascii_letters + string.digits
# Far above what floats lose in refills, far below a token.
_NOISE = 1e-6


@dataclass(frozen=True, slots=True)
class SimAccount:
    """One quota domain of the simulated provider.

    Args:
        name: how tests speak of it; unique.
        keys: how many keys to make (their secrets come from the seed), or the secrets themselves.
        rpm: requests per minute for each model. Default: no limit.
        tpm: tokens per minute for each model. Default: no limit.
        credit_calls: after so many served calls the account runs dry. Default: never.
        credit_tokens: after so many used tokens the account runs dry. Default: never.
        models: the models it has access to. Default: any.
        organization, project: what the answers' headers show. Default: made from the name.
    """

    name: str
    keys: int | Sequence[str] = field(default=1, repr=False)
    rpm: int | None = None
    tpm: int | None = None
    credit_calls: int | None = None
    credit_tokens: int | None = None
    models: Sequence[str] | None = None
    organization: str = ""
    project: str = ""


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


class Bucket:
    """A limit that refills continuously, and is full at first."""

    def __init__(self, capacity: int, per_second: float, now: float) -> None:
        self.capacity = capacity
        self.per_second = per_second
        self._level = float(capacity)
        self._at = now

    def level(self, now: float) -> float:
        return min(self.capacity, self._level + max(0.0, now - self._at) * self.per_second)

    def wait_for(self, amount: float, now: float) -> float:
        """Seconds until `amount` is there; 0 if it is there now."""
        missing = amount - self.level(now)
        return 0.0 if missing <= _NOISE else missing / self.per_second

    def take(self, amount: float, now: float) -> None:
        """Take `amount`, or what there is."""
        self._level = max(0.0, self.level(now) - amount)
        self._at = now

    def resize(self, capacity: int, per_second: float, now: float) -> None:
        """Change the limit; what was used of the old one stays used."""
        used = self.capacity - self.level(now)
        self.capacity, self.per_second = capacity, per_second
        self._level, self._at = max(0.0, capacity - used), now


class _Account:
    """The books of one account: its buckets, one of requests and one of tokens for each model."""

    def __init__(self, spec: SimAccount, minute: float) -> None:
        self.spec = spec
        self._minute = minute
        self._buckets: dict[tuple[str, str], Bucket] = {}

    def bucket(self, unit: str, model: str, now: float) -> Bucket | None:
        """The bucket that a call for `model` draws on, or None where there is no limit."""
        limit = self._limit(unit)
        if limit is None:
            return None
        # A dated snapshot (`gpt-4o-2024-08-06`) shares the limits of its alias.
        place = (unit, _DATE.sub("", model))
        if place not in self._buckets:
            self._buckets[place] = Bucket(limit, limit / self._minute, now)
        return self._buckets[place]

    def take(self, unit: str, amount: int, model: str, now: float) -> None:
        bucket = self.bucket(unit, model, now)
        if bucket is not None:
            bucket.take(amount, now)

    def resize(self, spec: SimAccount, now: float) -> None:
        """Go over to the limits of `spec`."""
        self.spec = spec
        for place, bucket in list(self._buckets.items()):
            limit = self._limit(place[0])
            if limit is None:
                del self._buckets[place]
            else:
                bucket.resize(limit, limit / self._minute, now)

    def limit_headers(self, model: str, now: float) -> dict[str, str]:
        headers: dict[str, str] = {}
        for unit in (REQUESTS, TOKENS):
            if bucket := self.bucket(unit, model, now):
                full = bucket.wait_for(bucket.capacity, now)
                headers[f"x-ratelimit-limit-{unit}"] = str(bucket.capacity)
                headers[f"x-ratelimit-remaining-{unit}"] = str(math.floor(bucket.level(now) + _NOISE))
                headers[f"x-ratelimit-reset-{unit}"] = go_duration(full)
        return headers

    def over_limit(self, bucket: Bucket, unit: str, amount: int, model: str, now: float) -> Reply:
        """The answer to a call for more than there is in a bucket."""
        context = Context(
            organization=self.spec.organization,
            project=self.spec.project,
            model=model,
            wait=bucket.wait_for(amount, now),
            unit=unit,
            dimension="tokens per min (TPM)" if unit == TOKENS else "requests per min (RPM)",
            limit=bucket.capacity,
            used=math.ceil(bucket.capacity - bucket.level(now) - _NOISE),
            requested=amount,
        )
        reply = error_reply("request_too_large" if amount > bucket.capacity else "rate_limit", context)
        return replace(reply, headers={**reply.headers, **self.limit_headers(model, now)})

    def _limit(self, unit: str) -> int | None:
        return self.spec.rpm if unit == REQUESTS else self.spec.tpm


class SimProvider:
    """The books of a provider: who may call what, how much is left, and what is answered where nothing is.

    Args:
        accounts: as they are at the start.
        rng: makes the secrets of keys that were asked for by number.
        minute: how many of the clock's seconds a minute of the limits lasts.

    Raises:
        ValueError: an account or secret is there twice, or a number makes no sense.
    """

    def __init__(self, accounts: Sequence[SimAccount], rng: Random, *, minute: float = MINUTE) -> None:
        self._accounts: dict[str, _Account] = {}
        self._keys: dict[str, SimKey] = {}
        self._by_secret: dict[str, SimKey] = {}
        self._revoked: set[str] = set()
        for spec in accounts:
            self._add(spec, rng, minute)

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
            Refused: no credential, an unknown or revoked one, or one of another organization or project.
        """
        if secret is None:
            raise Refused(error_reply("no_key", Context()))
        key = self._by_secret.get(secret)
        if key is None or key.label in self._revoked:
            raise Refused(error_reply("key_revoked", Context(secret=secret)))
        spec = self.account(key.account)
        if organization not in (None, spec.organization):
            raise Refused(error_reply("wrong_organization", Context()))
        if project not in (None, spec.project):
            raise Refused(error_reply("wrong_project", Context()))
        return key

    def admit(self, key: SimKey, model: str, tokens: int, now: float) -> dict[str, str]:
        """Charge a call to the account of `key`, and return the headers that show what is left.

        Raises:
            Refused: no such model, no credit, a request above the whole limit, or a limit reached.
        """
        account = self._account(key.account)
        if not _serves(account.spec, model):
            self.count_failed(key, model, now)
            known = any(_serves(other.spec, model) for other in self._accounts.values())
            context = Context(project=account.spec.project, model=model)
            raise Refused(error_reply("model_forbidden" if known else "model_missing", context))
        if 0 in (account.spec.credit_calls, account.spec.credit_tokens):
            raise Refused(error_reply("quota_exhausted", Context()))
        for unit, amount in ((TOKENS, tokens), (REQUESTS, 1)):
            bucket = account.bucket(unit, model, now)
            if bucket and bucket.wait_for(amount, now) > 0:
                # A refused request counts, so who hammers an empty bucket keeps it empty.
                self.count_failed(key, model, now)
                raise Refused(account.over_limit(bucket, unit, amount, model, now))
        account.take(REQUESTS, 1, model, now)
        account.take(TOKENS, tokens, model, now)
        if account.spec.credit_calls is not None:
            account.spec = replace(account.spec, credit_calls=account.spec.credit_calls - 1)
        return account.limit_headers(model, now)

    def count_failed(self, key: SimKey, model: str, now: float) -> None:
        """Count a request that failed: it uses up a request, too."""
        self._account(key.account).take(REQUESTS, 1, model, now)

    def bill(self, key: SimKey, tokens: int) -> None:
        """Take the tokens that a served call used from the account's credit."""
        account = self._account(key.account)
        if account.spec.credit_tokens is not None:
            account.spec = replace(account.spec, credit_tokens=max(0, account.spec.credit_tokens - tokens))

    def set_limits(self, name: str, *, rpm: int | None, tpm: int | None, now: float) -> None:
        """Change an account's limits; None is no limit. What was used stays used.

        Raises:
            ValueError: no such account, or a limit below 1.
        """
        account = self._account(name)
        spec = replace(account.spec, rpm=rpm, tpm=tpm)
        _check(spec)
        account.resize(spec, now)

    def set_credit(self, name: str, *, calls: int | None, tokens: int | None) -> None:
        """Change an account's credit; None is no end of it.

        Raises:
            ValueError: no such account, or a negative credit.
        """
        account = self._account(name)
        spec = replace(account.spec, credit_calls=calls, credit_tokens=tokens)
        _check(spec)
        account.spec = spec

    def revoke(self, label: str) -> None:
        """Make a key invalid."""
        self._revoked.add(self.key(label).label)

    def restore(self, label: str) -> None:
        """Make a revoked key valid again."""
        self._revoked.discard(self.key(label).label)

    def _account(self, name: str) -> _Account:
        if name not in self._accounts:
            raise ValueError(f"no account {name!r}: there are {', '.join(self._accounts)}")
        return self._accounts[name]

    def _add(self, spec: SimAccount, rng: Random, minute: float) -> None:
        if spec.name in self._accounts:
            raise ValueError(f"two accounts are called {spec.name!r}: give each its own name")
        _check(spec)
        secrets = [_secret(rng) for _ in range(spec.keys)] if isinstance(spec.keys, int) else spec.keys
        shown = {
            "organization": spec.organization or f"org-{spec.name}",
            "project": spec.project or f"proj_{spec.name}",
        }
        self._accounts[spec.name] = _Account(replace(spec, **shown), minute)
        for number, secret in enumerate(secrets, start=1):
            key = SimKey(f"{spec.name}/key-{number}", spec.name, secret)
            if secret in self._by_secret:
                raise ValueError(f"{key.label} has the secret of {self._by_secret[secret].label}")
            self._keys[key.label] = self._by_secret[secret] = key


def _serves(spec: SimAccount, model: str) -> bool:
    return spec.models is None or model in spec.models


def _check(spec: SimAccount) -> None:
    for name, limit in (("rpm", spec.rpm), ("tpm", spec.tpm)):
        if limit is not None and limit < 1:
            raise ValueError(f"account {spec.name!r}: {name} is {limit}; give 1 or more, or None for no limit")
    for name, credit in (("credit_calls", spec.credit_calls), ("credit_tokens", spec.credit_tokens)):
        if credit is not None and credit < 0:
            raise ValueError(f"account {spec.name!r}: {name} is {credit}; give 0 or more, or None for no end")
    if isinstance(spec.keys, str):
        raise ValueError(f"account {spec.name!r}: keys is one text; give a number, or a list of secrets")
    if not spec.keys or (isinstance(spec.keys, int) and spec.keys < 0):
        raise ValueError(f"account {spec.name!r} has no keys: give it at least one")


def _secret(rng: Random) -> str:
    return "sk-sim-" + "".join(rng.choices(_SECRET_CHARS, k=40))
