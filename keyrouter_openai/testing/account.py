"""One account of the simulated provider: what it may use, and the books of what it has used."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from heapq import heappop, heappush
from itertools import count
from typing import Literal

from ..core.model import DAY, MINUTE, Dimension, Reading
from .cache import PromptCache
from .errors import ERRORS, Context, error_reply
from .headers import DIALECTS, Dialect, Shown
from .limits import NOISE, Bucket, Level
from .wire import Refused, Reply, whole_millis

_DATE = re.compile(r"-\d{4}-\d{2}-\d{2}$")

# The fields of `SimAccount` that hold limits, in the order in which they are checked, with the API's words for
# them. OpenAI has none for input and output: those two are formed after the others.
_LIMITS: dict[str, tuple[Dimension, float, str]] = {
    "tpm": (Dimension.TOKENS, MINUTE, "tokens per min (TPM)"),
    "rpm": (Dimension.REQUESTS, MINUTE, "requests per min (RPM)"),
    "tpd": (Dimension.TOKENS, DAY, "tokens per day (TPD)"),
    "rpd": (Dimension.REQUESTS, DAY, "requests per day (RPD)"),
    "itpm": (Dimension.INPUT, MINUTE, "input tokens per min (ITPM)"),
    "otpm": (Dimension.OUTPUT, MINUTE, "output tokens per min (OTPM)"),
}
_NO_LIMITS = dict.fromkeys(_LIMITS)
_WORDS = {(dimension, period): words for dimension, period, words in _LIMITS.values()}


@dataclass(frozen=True, slots=True)
class SimAccount:
    """One quota domain of the simulated provider.

    Args:
        name: how tests speak of it; unique.
        keys: how many keys to make (their secrets come from the seed), or the secrets themselves.
        rpm, rpd: requests per minute and per day for each model. Default: no limit.
        tpm, tpd: tokens per minute and per day for each model. Default: no limit.
        credit_calls: after so many served calls the account runs dry. Default: never.
        credit_tokens: after so many used tokens the account runs dry. Default: never.
        models: the models it has access to. Default: any.
        organization, project: what the answers' headers show. Default: made from the name.
        itpm: tokens of prompts per minute for each model, without those that are cached. Default: no limit.
        otpm: generated tokens per minute for each model, charged when a call ends. Default: no limit.
        concurrent: calls at a time; one more gets a 429 that names no wait. Default: no limit.
        slice_s: `rpm` is enforced over slices of so many seconds: with 60 requests per minute and slices of
            1 s, one request at once. Headers show the limit per minute all the same. Default: a minute.
        headers: whose headers show the limits: "openai", "azure", "groq", "anthropic" or "none".
        header_lag_s: headers show the limits as they were so many seconds ago.
        shared: models and the models whose limits they share (`{"gpt-4o": "gpt-4.1"}`). Default: each its own.
        cache: whether beginnings of prompts are cached.
        cache_ttl_s: seconds after which what is cached and not used is forgotten; OpenAI's are 5 to 10 minutes
            (https://developers.openai.com/api/docs/guides/prompt-caching).
        by_model: models that have other limits than the rest, and those that they have, all others being none:
            `{"gpt-4o": {"rpm": 500, "tpm": 30_000}}`.
        price_multiplier: what its calls are billed, relative to list prices.
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
    rpd: int | None = None
    tpd: int | None = None
    itpm: int | None = None
    otpm: int | None = None
    concurrent: int | None = None
    slice_s: float = MINUTE
    headers: Literal["openai", "azure", "groq", "anthropic", "none"] = "openai"
    header_lag_s: float = 0.0
    shared: Mapping[str, str] = field(default_factory=dict[str, str])
    cache: bool = False
    cache_ttl_s: float = 300.0
    by_model: Mapping[str, Mapping[str, int]] = field(default_factory=dict[str, Mapping[str, int]])
    price_multiplier: float = 1.0

    def limits(self, model: str) -> Mapping[str, int | None]:
        """The limits for a model, by the names of `_LIMITS`."""
        own = self.by_model.get(model)
        return {name: getattr(self, name) for name in _LIMITS} if own is None else {**_NO_LIMITS, **own}

    def check(self) -> None:
        """Raise ValueError if it makes no sense."""
        for name in (*_LIMITS, "concurrent"):
            limit: int | None = getattr(self, name)
            if limit is not None and limit < 1:
                raise ValueError(f"account {self.name!r}: {name} is {limit}; give 1 or more, or None for no limit")
        for model, limits in self.by_model.items():
            if wrong := [name for name, limit in limits.items() if name not in _LIMITS or limit < 1]:
                raise ValueError(
                    f"account {self.name!r}: by_model gives {model!r} {wrong[0]}={limits[wrong[0]]}; "
                    f"give any of {', '.join(_LIMITS)}, of 1 or more"
                )
        for name, credit in (("credit_calls", self.credit_calls), ("credit_tokens", self.credit_tokens)):
            if credit is not None and credit < 0:
                raise ValueError(f"account {self.name!r}: {name} is {credit}; give 0 or more, or None for no end")
        if isinstance(self.keys, str):
            raise ValueError(f"account {self.name!r}: keys is one text; give a number, or a list of secrets")
        if not self.keys or (isinstance(self.keys, int) and self.keys < 0):
            raise ValueError(f"account {self.name!r} has no keys: give it at least one")
        if not 0 < self.slice_s <= MINUTE:
            raise ValueError(f"account {self.name!r}: slice_s is {self.slice_s}; give more than 0 and up to 60 seconds")
        if self.headers not in DIALECTS:
            raise ValueError(f"account {self.name!r}: headers is {self.headers!r}; use one of {', '.join(DIALECTS)}")
        if self.header_lag_s < 0 or self.cache_ttl_s <= 0:
            raise ValueError(f"account {self.name!r}: header_lag_s must not be below 0, cache_ttl_s must be above")
        if self.price_multiplier < 0:
            raise ValueError(f"account {self.name!r}: price_multiplier is {self.price_multiplier}; give 0 or more")


class Admitted(Shown):
    """A call that was let in: what its answer's headers show, and where it is charged when it ends."""

    __slots__ = ("account", "family")

    def __init__(self, account: Account, family: Family, now: float) -> None:
        super().__init__(account.dialect, family.shown, now, account.epoch + now)
        self.account = account
        self.family = family


class Denied(Refused):
    """A call that the books do not allow.

    `reply` is the answer as it goes over HTTP; the rest is what a client reads from it. What the answer does not
    say is None, or empty.

    Args:
        error: its name in `ERRORS`.
        context: makes what the answer's text names.
        bucket: the limit that was hit.
        wait: the exact seconds to wait.
        shared: the model whose limit it is, where that is another one.
        shown: the limits that the answer's headers show.
        exact: whether the headers tell the wait in milliseconds, too.
    """

    def __init__(
        self,
        error: str,
        context: Callable[[], Context] = Context,
        *,
        bucket: Bucket | None = None,
        wait: float | None = None,
        shared: str | None = None,
        shown: Shown | None = None,
        exact: bool = True,
    ) -> None:
        super().__init__(lambda: _denial(error, context(), shown, exact=exact))
        self.error = error
        self.status = ERRORS[error].status
        self.dimension = bucket and bucket.dimension
        self.period = bucket and bucket.period
        self.limit = bucket and bucket.limit
        self.wait = wait and (whole_millis(wait) / 1000 if exact else math.ceil(whole_millis(wait) / 1000))
        self.shared = shared
        self._shown = shown

    @property
    def readings(self) -> tuple[Reading, ...]:
        """The limits as whoever reads the headers gets them."""
        return self._shown.readings if self._shown else ()


def _denial(error: str, context: Context, shown: Shown | None, *, exact: bool) -> Reply:
    reply = error_reply(error, context)
    headers = {**reply.headers, **(shown.headers if shown else {})}
    if not exact:
        headers.pop("retry-after-ms", None)
    return replace(reply, headers=headers)


class Family:
    """The limits for one family of models: all the models that are charged to the same buckets."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.buckets: tuple[Bucket, ...] = ()
        self.up_front: tuple[Bucket, ...] = ()
        """Those that are charged when a call is admitted."""
        self.requests: tuple[Bucket, ...] = ()
        self.output: Bucket | None = None
        self.shown: tuple[Bucket, ...] = ()

    def resize(self, spec: SimAccount, minute: float, now: float) -> None:
        """Go over to the limits of `spec`; what was used of the old ones stays used."""
        used = {(bucket.dimension, bucket.period): bucket.used(now) for bucket in self.buckets}
        scale = minute / MINUTE
        buckets: list[Bucket] = []
        limits = spec.limits(self.name)
        for name, (dimension, period, _) in _LIMITS.items():
            limit = limits[name]
            if limit is None:
                continue
            bucket = Bucket(
                dimension,
                period,
                limit,
                capacity=max(1.0, limit * spec.slice_s / MINUTE) if name == "rpm" else limit,
                per_second=limit / (period * scale),
                lag=spec.header_lag_s * scale,
                used=used.get((dimension, period), 0.0),
                now=now,
            )
            buckets.append(bucket)
        self.buckets = tuple(buckets)
        self.up_front = tuple(bucket for bucket in buckets if bucket.dimension is not Dimension.OUTPUT)
        self.requests = tuple(bucket for bucket in buckets if bucket.dimension is Dimension.REQUESTS)
        self.output = next((bucket for bucket in buckets if bucket.dimension is Dimension.OUTPUT), None)
        self.shown = DIALECTS[spec.headers].pick(buckets)


class Account:
    """The books of one account. `minute` is how many of the clock's seconds a minute lasts.

    `epoch` is the wall-clock time, in seconds, at which the clock was 0.
    """

    def __init__(self, spec: SimAccount, *, minute: float, epoch: float) -> None:
        self.spec = spec
        self.epoch = epoch
        self.dialect: Dialect = DIALECTS[spec.headers]
        self.cache = PromptCache(spec.cache_ttl_s * minute / MINUTE) if spec.cache else None
        self._minute = minute
        self._families: dict[str, Family] = {}
        self._by_model: dict[str, Family] = {}
        charges_output = spec.otpm is not None or any("otpm" in own for own in spec.by_model.values())
        self._ends_matter = spec.concurrent is not None or charges_output
        self._running = 0
        # When running calls end, the order in which that was said, and the output tokens of which family.
        self._ends: list[tuple[float, int, int, Family]] = []
        self._numbers = count()

    def serves(self, model: str) -> bool:
        return self.spec.models is None or model in self.spec.models

    def admit(self, model: str, tokens: int, input_tokens: int, now: float) -> Admitted:
        """Charge a call.

        Raises:
            Denied: it is above a limit, and was counted as a failed request.
        """
        if self._ends_matter:
            self._end_calls(now)
        family = self._by_model.get(model) or self._family(model, now)
        if self.spec.concurrent is not None and self._running >= self.spec.concurrent:
            raise self._over_limit(None, 1, model, family, now)
        amounts = {
            Dimension.REQUESTS: 1,
            Dimension.TOKENS: tokens,
            Dimension.INPUT: input_tokens,
            # How much it will be is not known: a call is let in as long as there is any.
            Dimension.OUTPUT: 1,
        }
        for bucket in family.buckets:
            if bucket.wait_for(amounts[bucket.dimension], now):
                raise self._over_limit(bucket, amounts[bucket.dimension], model, family, now)
        for bucket in family.up_front:
            bucket.take(amounts[bucket.dimension], now)
        self._running += 1
        return Admitted(self, family, now)

    def finish(self, family: Family, at: float, output_tokens: int) -> None:
        """Free the place of a call and charge its output as of `at`, which is not before now."""
        if self._ends_matter:
            heappush(self._ends, (at, next(self._numbers), output_tokens, family))

    def count_failed(self, model: str, now: float) -> None:
        for bucket in self._family(model, now).requests:
            bucket.drain(1, now)

    def drain(self, model: str, requests: float, tokens: float, now: float) -> None:
        amounts = {Dimension.REQUESTS: requests, Dimension.TOKENS: tokens, Dimension.INPUT: tokens}
        for bucket in self._family(model, now).up_front:
            bucket.drain(amounts[bucket.dimension], now)

    def levels(self, model: str, now: float) -> tuple[Level, ...]:
        self._end_calls(now)
        return tuple(bucket.level(now) for bucket in self._family(model, now).buckets)

    def resize(self, spec: SimAccount, now: float) -> None:
        """Go over to the limits of `spec`."""
        self._end_calls(now)
        self.spec = spec
        for family in self._families.values():
            family.resize(spec, self._minute, now)

    def _family(self, model: str, now: float) -> Family:
        """The limits that a call for `model` is charged to."""
        if model not in self._by_model:
            name = _base(model)
            name = self.spec.shared.get(name, name)
            if name not in self._families:
                self._families[name] = Family(name)
                self._families[name].resize(self.spec, self._minute, now)
            self._by_model[model] = self._families[name]
        return self._by_model[model]

    def _end_calls(self, now: float) -> None:
        """Charge what the calls that have ended by now were answered with."""
        while self._ends and self._ends[0][0] <= now:
            at, _, output_tokens, family = heappop(self._ends)
            self._running -= 1
            if family.output:
                family.output.take(output_tokens, at)

    def _over_limit(self, bucket: Bucket | None, amount: int, model: str, family: Family, now: float) -> Denied:
        """The answer to a call for more than there is in `bucket`, or, without one, for one more at a time."""
        # A refused request counts, so who hammers an empty bucket keeps it empty.
        self.count_failed(model, now)
        shown = Shown(self.dialect, family.shown, now, self.epoch + now)
        if bucket is None:
            return Denied("concurrency_limit", shown=shown)
        shared = None if family.name in (model, _base(model)) else family.name
        too_large = amount > bucket.capacity
        wait, used = bucket.wait_for(amount, now), bucket.used(now)
        return Denied(
            "request_too_large" if too_large else "rate_limit",
            lambda: Context(
                organization=self.spec.organization,
                project=self.spec.project,
                model=f"{model} (for limit {shared})" if shared else model,
                wait=wait,
                unit="requests" if bucket.dimension is Dimension.REQUESTS else "tokens",
                dimension=_WORDS[bucket.dimension, bucket.period],
                limit=bucket.limit,
                used=math.ceil(used - NOISE),
                requested=amount,
            ),
            bucket=bucket,
            wait=None if too_large else wait,
            shared=shared,
            shown=shown,
            exact=self.dialect.exact_wait,
        )


def _base(model: str) -> str:
    """The model's alias: a dated snapshot (`gpt-4o-2024-08-06`) shares the limits of its alias."""
    return _DATE.sub("", model)
