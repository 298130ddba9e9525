"""No method of the SDK goes round the router, whichever SDK is installed."""

from __future__ import annotations

from pathlib import Path

import pytest

from .resources_walk import NOT_REQUESTED, PASSED, ROUTED, walk

pytestmark = [pytest.mark.anyio, pytest.mark.filterwarnings("ignore::DeprecationWarning")]


async def test_each_method_goes_out_with_one_key_of_the_pool_and_is_on_record(tmp_path: Path) -> None:
    done = await walk(tmp_path)
    print(done)

    assert done.unaccounted == {}
    assert {"chat.completions.create", "files.list", "responses.parse"} <= {*done.methods(ROUTED)}
    assert all(method.startswith("admin.") or method in NOT_REQUESTED for method in done.methods(PASSED))
    assert len(done.outcomes) > 300
