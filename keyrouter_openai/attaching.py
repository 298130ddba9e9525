"""The SDK's helpers that upload files for a vector store: they upload to the account that has the store."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property, partial, wraps
from inspect import iscoroutinefunction
from typing import Any, TypeVar

from .drop_in import DropIn

_C = TypeVar("_C", bound=DropIn)
_HELPERS = (("files", "upload"), ("files", "upload_and_poll"), ("file_batches", "upload_and_poll"))


def uploads_to_owners(routed: type[_C]) -> type[_C]:
    """Decorates a client: a file that a helper uploads for a vector store goes to the account that has the store."""
    made: cached_property[Any] = vars(routed)["vector_stores"]
    prop = cached_property(lambda client: _uploading(client, made.func(client)))
    prop.__doc__ = made.__doc__
    prop.__set_name__(routed, "vector_stores")
    routed.vector_stores = prop  # pyright: ignore[reportAttributeAccessIssue]
    return routed


def _uploading(client: Any, stores: Any) -> Any:
    for attribute, name in _HELPERS:
        resource = getattr(stores, attribute)
        setattr(resource, name, _at_owner(client, stores, resource.__class__, getattr(resource, name)))
    return stores


def _at_owner(client: Any, stores: Any, kind: type[Any], helper: Callable[..., Any]) -> Callable[..., Any]:
    def is_unknown(vector_store_id: str) -> bool:
        return client._follows_owners and client.router.owners.place(vector_store_id) is None

    def there(vector_store_id: str) -> Callable[..., Any]:
        place = client.router.owners.place(vector_store_id) if client._follows_owners else None
        if place is None:
            return partial(helper, vector_store_id=vector_store_id)
        pinned = kind(client.with_routing(account=place.account, key=place.key))
        return partial(getattr(pinned, helper.__name__), vector_store_id=vector_store_id)

    @wraps(helper)
    def upload(vector_store_id: str, **arguments: Any) -> Any:
        if is_unknown(vector_store_id):
            stores.retrieve(vector_store_id)
        return there(vector_store_id)(**arguments)

    @wraps(helper)
    async def upload_async(vector_store_id: str, **arguments: Any) -> Any:
        if is_unknown(vector_store_id):
            await stores.retrieve(vector_store_id)
        return await there(vector_store_id)(**arguments)

    return upload_async if iscoroutinefunction(helper) else upload
