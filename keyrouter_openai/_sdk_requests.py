"""How the HTTP request of an attempt is made: as the SDK makes it, without working out anew what stays the same.

The SDK hands URL and headers to the HTTP client as text, which parses and merges them again. For a call with a JSON
body and no parameters, which nearly all are, the request is put together here, from the SDK's own headers and URL.
"""

# pyright: reportPrivateUsage=false
# As `_sdk`, this touches what is private in the SDK.

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Any

from openai import NotGiven

from ._sdk import BaseClient, Options, httpx2, openapi_dumps, tells_requests

if TYPE_CHECKING:
    _Client = BaseClient[Any, Any]
else:
    _Client = object

MOST_URLS = 256
"""Full URLs that a client keeps; some have an id in their path."""

_BUILDERS = (httpx2.AsyncClient.build_request, httpx2.Client.build_request)
_SPECIAL_HEADERS = {b"host", b"content-length", b"transfer-encoding"}
"""The HTTP library adds those that are not there, after a look at all that are."""


class _Urls:
    """The full URLs of one base URL by path: the SDK would parse both anew for each request."""

    def __init__(self) -> None:
        self._base: object = None
        self._full: dict[str, Any] = {}

    def full(self, base: object, path: str, work_out: Callable[[str], Any]) -> Any:
        """What `work_out` makes of a path, worked out once as long as the base stays."""
        if base is not self._base or len(self._full) >= MOST_URLS:
            self._full, self._base = {}, base  # in this order: threads must not find the old ones under the new base
        found = self._full.get(path)
        if found is None:
            found = self._full[path] = work_out(path)
        return found


class QuickRequests(_Client):
    """Mixed into the SDK's clients, before them."""

    @cached_property
    def _urls(self) -> _Urls:
        return _Urls()

    def _prepare_url(self, url: str) -> Any:
        return self._urls.full(self.base_url, url, super()._prepare_url)

    def _build_request(self, options: Options, *, retries_taken: int = 0) -> Any:
        if not _is_plain(self, options):
            return super()._build_request(options, retries_taken=retries_taken)
        http, url = self._client, self._prepare_url(options.url)
        headers = self._build_headers(options, retries_taken=retries_taken)
        own = [(_lower(name), value) for name, value in headers.raw]
        names = {name for name, _ in own}
        timeout: Any = self.timeout if isinstance(options.timeout, NotGiven) else options.timeout
        if (
            url.is_relative_url
            or b"_" in url.raw_host  # some versions name it otherwise to TLS
            or headers.get("content-type") != "application/json"
            or not isinstance(timeout, httpx2.Timeout | float | int | None)
            or not names.isdisjoint(_SPECIAL_HEADERS)
        ):
            return super()._build_request(options, retries_taken=retries_taken)
        body = openapi_dumps(options.json_data)
        general = [header for header in http.headers.raw if header[0].lower() not in names]
        request = httpx2.Request(
            options.method,
            url,
            headers=[(b"Host", url.netloc), *general, *own, (b"Content-Length", b"%d" % len(body))],
            cookies=http.cookies,
            stream=httpx2.ByteStream(body),
            extensions={"timeout": httpx2.Timeout(timeout).as_dict()},
        )
        request.read()  # as what was made of content is
        return request


@lru_cache(maxsize=256)  # so that requests which are under way together share their names
def _lower(name: bytes) -> bytes:
    return name.lower()


def _is_plain(client: BaseClient[Any, Any], options: Options) -> bool:
    """Whether a call has a JSON body and nothing else, and goes through the HTTP library's own way to make requests."""
    http: Any = client._client
    return (
        type(options.json_data) is dict
        and options.method == "post"
        and options.extra_json is None
        and getattr(options, "content", None) is None  # not in every supported version
        and not options.files
        and not options.params
        and not client.default_query
        and not client._auth_query(options.security)
        and http.__class__.build_request in _BUILDERS
        and "build_request" not in vars(http)
        and not http.params
        and not tells_requests()
    )
