"""Lists of what an account keeps (files, batches, vector stores and so on), in a pool of several accounts.

Such a list shows what one account has, so it is asked of an account that the caller names, or of all, one after
another: `account="*"`. A walk over all leaves none out that has an enabled key: where one cannot answer, its error is
raised when its turn comes, and the page before can be asked for the next one again.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, TypeVar

from pydantic import PrivateAttr

from . import _sdk
from .errors import OwnerError
from .options import endpoint_of, mentions
from .owners import Owners, Place
from .route import ALL_ACCOUNTS, Routing, routing
from .router import Router

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Walk:
    """Where a walk over the lists of accounts stands."""

    owners: Owners
    options: _sdk.Options
    """The call for the first page of each account."""
    key: str
    """A key of the account whose list this is: accounts get other names, and two may turn out to be one."""
    place: Place
    """The account as it was called at the start, and the only key that may ask it, if there is one."""
    done: frozenset[str] = frozenset()
    """The keys of those whose lists are not to come any more."""

    def onward(self) -> Walk | None:
        """The next account, if there is one."""
        places = self.owners.places()
        here = places.get(self.key)
        done = self.done.union((self.key,), (key for key, place in places.items() if place == here))
        over = {places[key] for key in done if key in places}
        left = ((key, place) for key, place in places.items() if place not in over)
        return next((replace(self, key=key, place=place, done=done) for key, place in left), None)

    def start(self, page_class: Any) -> tuple[type, _sdk.Options]:
        """What to ask the SDK for: pages of this class that stay in the account, or go on with the next one."""
        options, parse = self.options.model_copy(), self.options.post_parser
        options.post_parser = lambda page: self.mark(parse(page) if callable(parse) else page)
        return _walking(page_class), options

    def mark(self, page: Any) -> Any:
        """Note on a page where it stands. One of an account that turns out to have been listed before is empty."""
        page._walk = self
        if self._repeats():
            page.data = []
        return page

    def pinned(self) -> AbstractContextManager[None]:
        """Within this block calls go to this account."""
        place = self.owners.places().get(self.key, self.place)
        return routing(account=place.account, key=self.place.key or place.key)

    def _repeats(self) -> bool:
        if not self.done or self.key in self.done:
            return False
        places = self.owners.places()
        return places.get(self.key) in {places[key] for key in self.done if key in places}


def first_walk(router: Router, wishes: Routing, options: _sdk.Options) -> Walk | None:
    """Where the pages of a list start, or None for what is no list of one account's, or where there is but one.

    Raises:
        OwnerError: there are several accounts, and the caller names none.
    """
    owners, every = router.owners, wishes.account == ALL_ACCOUNTS
    if not (every or owners.matter) or (every and wishes.key is not None) or not _lists_an_account(options):
        return None
    places = owners.places()
    named = {
        key: place
        for key, place in places.items()
        if wishes.key in (None, key) and (every or wishes.account in (None, place.account))
    }
    if not every and len(set(named.values())) > 1:
        ways = sorted({place.wish for place in named.values()})
        raise OwnerError(
            f"{endpoint_of(options.url)} lists what one account has, and pool {router.pool!r} has several: name one "
            f"with client.with_routing({' or '.join(ways)}), or walk them all, one after another, with "
            f"account={ALL_ACCOUNTS!r}. Keys of one account are known as such if each says so: Key(account=...)"
        )
    done = frozenset[str]() if every else frozenset(places)
    first = ((key, place._replace(key=wishes.key or place.key)) for key, place in named.items())
    return next((Walk(owners, options, key, place, done) for key, place in first), None)


def _lists_an_account(options: _sdk.Options) -> bool:
    """Whether a list has no owner but the account: models are the same for all, and what has an id has an owner.

    An id need not look like one; but no path of more than three parts, such as `/agents/environments/templates`, is
    without.
    """
    endpoint = endpoint_of(options.url)
    if endpoint.count("/") > 3:
        return False
    return "{id}" not in endpoint and not endpoint.endswith("/models") and not mentions(options)


# -- pages that go on with the next account


class _SyncPage(_sdk.BaseSyncPage[T]):
    _walk: Walk = PrivateAttr()

    def has_next_page(self) -> bool:
        return super().has_next_page() or self._walk.onward() is not None

    def get_next_page(self) -> Any:
        onward = None if super().has_next_page() else self._walk.onward()
        walk = onward or self._walk
        with walk.pinned():
            page = _sdk.list_again(self, walk.options) if onward else super().get_next_page()
        return walk.mark(page)


class _AsyncPage(_sdk.BaseAsyncPage[T]):
    _walk: Walk = PrivateAttr()

    def has_next_page(self) -> bool:
        return super().has_next_page() or self._walk.onward() is not None

    async def get_next_page(self) -> Any:
        onward = None if super().has_next_page() else self._walk.onward()
        walk = onward or self._walk
        with walk.pinned():
            page = await (_sdk.list_again(self, walk.options) if onward else super().get_next_page())
        return walk.mark(page)


@cache
def _walking(page_class: Any) -> type:
    walking: Any = _AsyncPage if issubclass(page_class, _sdk.BaseAsyncPage) else _SyncPage
    bases: Any = (walking, page_class)
    return type(page_class.__name__, bases, {"__module__": __name__})


def is_list(cast_to: Any, options: _sdk.Options) -> bool:
    """Whether a call asks for the first page of a list. The pages after it know their place."""
    if options.method.lower() != "get" or not _sdk.is_page(cast_to):
        return False
    return not issubclass(cast_to, (_SyncPage, _AsyncPage))
