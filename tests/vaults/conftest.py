from __future__ import annotations

import pytest

from tests.secret_service import no_keyring as no_keyring
from tests.secret_service import secret_service as secret_service


@pytest.fixture
def cheap_scrypt(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make new files with the weakest key that is read, which is derived four times faster."""
    monkeypatch.setattr("keyrouter_openai.vaults.encrypted_file._LOG2_N", 15)
