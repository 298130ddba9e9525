"""The provider's bill, fetched and laid beside what the ledger has.

OpenAI's admin API (https://developers.openai.com/api/reference/resources/admin) tells the usage and the costs of an
organization by day, model and key, and lists its keys with their secrets redacted.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urlsplit

from pydantic import SecretStr

from .core.reconcile import Billed, Counts, Difference, Line, Recorded, added_up, compare
from .errors import ConfigError
from .keys import check_base_url

if TYPE_CHECKING:
    from openai import OpenAI

TIMEOUT_S = 60.0
"""Seconds for each question."""

_COUNTED = ("completions", "embeddings")
"""The usage endpoints of calls to models that tell the tokens which answers tell too."""
_UNCOUNTED = ("moderations", "images", "audio_speeches", "audio_transcriptions")
_ADVICE = {
    401: "is this the admin key of the organization?",
    403: "is this an admin key, which may read usage, projects and their keys?",
    404: "is this the right address?",
}
_USAGE_BUCKETS, _COST_BUCKETS = 31, 180  # the most that a page may have
_REDACTED = re.compile(r"(\S*?)(?:\.{3,}|…|\*+)(\S*)")
_SHORTEST_TAIL = 4


class Bill(NamedTuple):
    """What an organization is billed, by the provider's ids of its keys."""

    lines: dict[Line, Billed]
    redacted: dict[str, str]
    """Its keys by id, as far as the provider shows them."""


def fetch_bill(admin_key: SecretStr, base_url: str, since: int, until: int) -> Bill:
    """Ask the provider what it bills, from one UTC midnight to another (seconds since the epoch). Blocks.

    The admin key goes to `base_url` alone: it must be https, unless it is on this machine, and no redirect is followed.

    Raises:
        ConfigError: the address may get no credential, the admin key is refused, or there is no answer.
    """
    import openai

    try:
        base_url = check_base_url(base_url)
    except ValueError as error:
        raise ConfigError(str(error)) from None
    client = openai.OpenAI(
        admin_api_key=admin_key.get_secret_value(),
        base_url=base_url,
        timeout=TIMEOUT_S,
        http_client=openai.DefaultHttpxClient(follow_redirects=False),
    )
    problem = ""
    with client:
        try:
            lines = added_up((*_usage(client, since, until), *_costs(client, since, until)))
            return Bill(lines, dict(_keys(client)))
        except openai.APIStatusError as error:  # whose text may quote the key
            problem = f"answered {error.status_code}: {_ADVICE.get(error.status_code, 'try again later')}"
        except openai.APIConnectionError as error:
            problem = f"did not answer ({type(error.__cause__ or error).__name__}): try again later"
    # Outside the `except`: an error keeps its frames, and what they hold.
    raise ConfigError(f"{urlsplit(base_url).netloc}, asked what it bills, {problem}")


def _usage(client: OpenAI, since: int, until: int) -> Iterator[tuple[Line, Billed]]:
    for kind in (*_COUNTED, *_UNCOUNTED):
        ask = getattr(client.admin.organization.usage, kind)
        for day, result in _results(ask, since, until, limit=_USAGE_BUCKETS, group_by=["api_key_id", "model"]):
            line, requests = Line(day, result.model or "", result.api_key_id or ""), result.num_model_requests
            if kind in _UNCOUNTED:
                yield line, Billed(requests, uncounted=requests)
                continue
            yield (
                line,
                Billed(
                    requests,
                    prompt=result.input_tokens,
                    cached=getattr(result, "input_cached_tokens", None) or 0,
                    completion=getattr(result, "output_tokens", None) or 0,
                ),
            )


def _costs(client: OpenAI, since: int, until: int) -> Iterator[tuple[Line, Billed]]:
    ask = client.admin.organization.usage.costs
    for day, result in _results(ask, since, until, limit=_COST_BUCKETS, group_by=["api_key_id", "line_item"]):
        # `gpt-4o-2024-08-06, cached input`; what is no call to a model has another form, and is taken as it is.
        model = (result.line_item or "").partition(", ")[0]
        if result.amount is not None and result.amount.value is not None:
            yield Line(day, model, result.api_key_id or ""), Billed(usd=Decimal(str(result.amount.value)))


def _results(ask: Callable[..., Any], since: int, until: int, **query: Any) -> Iterator[tuple[str, Any]]:
    """All results of an endpoint, each with its day, page by page."""
    more: dict[str, str] = {}
    while True:
        page = ask(start_time=since, end_time=until, bucket_width="1d", **query, **more)
        buckets = getattr(page, "data", None)
        if buckets is None:  # some other JSON, or a web page, which the SDK takes for a text
            raise ConfigError("what answered is no admin API: is this the right address?")
        for bucket in buckets:
            day = datetime.fromtimestamp(bucket.start_time, UTC).date().isoformat()
            for result in bucket.results:
                yield day, result
        if not page.has_more or not page.next_page:
            return
        more = {"page": page.next_page}


def _keys(client: OpenAI) -> Iterator[tuple[str, str]]:
    projects = client.admin.organization.projects
    for project in projects.list(include_archived=True, limit=100):
        for key in projects.api_keys.list(project.id, limit=100):
            yield key.id, key.redacted_value


def match_keys(redacted: Mapping[str, str], secrets: Mapping[str, SecretStr]) -> dict[str, list[str]]:
    """The names of keys by their ids at the provider, where exactly one secret looks like exactly one redacted value.

    Args:
        redacted: by id, such as `sk-abc...wxyz`; at least four characters of the end are needed to tell keys apart.
        secrets: by name; one secret may have several names.
    """
    names: defaultdict[str, list[str]] = defaultdict(list)
    for name, secret in secrets.items():
        names[secret.get_secret_value()].append(name)
    ids = {secret: [id for id, shown in redacted.items() if _looks_like(shown, secret)] for secret in names}
    claims = [id for found in ids.values() for id in found]
    return {found[0]: names[secret] for secret, found in ids.items() if len(found) == 1 and claims.count(found[0]) == 1}


def _looks_like(redacted: str, secret: str) -> bool:
    shown = _REDACTED.fullmatch(redacted)
    return (
        shown is not None
        and len(shown[2]) >= _SHORTEST_TAIL
        and secret.startswith(shown[1])
        and secret.endswith(shown[2])
    )


def reconcile(
    bill: Bill, recorded: Mapping[Line, Recorded], names: Mapping[str, Sequence[str]], by: Collection[str]
) -> list[Difference]:
    """Where a bill and the ledger's rows differ (see `core.reconcile.compare`).

    Args:
        names: what the ledger calls each key, by its id at the provider. Several names are of one key.
    """
    labels: dict[str, str] = {}
    for each in sorted(names.values(), key=len):
        labels |= dict.fromkeys(each, ", ".join(each))
    return compare(
        _renamed(recorded, labels),
        _renamed(bill.lines, {id: labels[each[0]] for id, each in names.items()}),
        by=by,
        strangers={line.key for line in bill.lines} - {*names},
        unmatched={line.key for line in recorded} - {*labels},
    )


def _renamed(lines: Mapping[Line, Counts], names: Mapping[str, str]) -> dict[Line, Counts]:
    renamed = ((line._replace(key=names.get(line.key, line.key)), counts) for line, counts in lines.items())
    return added_up(renamed)
