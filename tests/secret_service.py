"""A real Secret Service (gnome-keyring on a private session bus) for tests that need an OS keyring."""

from __future__ import annotations

import gc
import os
import shutil
import signal
import subprocess
import tempfile
import warnings
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import keyring.backend
import pytest

_PROGRAMS = ("dbus-daemon", "gnome-keyring-daemon", "gdbus")
_DISPLAYS = ("DISPLAY", "WAYLAND_DISPLAY")


@dataclass
class SecretService:
    """A running, unlocked service. `environ` is what a process needs to reach it, and it alone."""

    environ: dict[str, str]
    bus: subprocess.Popen[str]
    daemon: subprocess.Popen[str]

    def lock(self) -> None:
        service = ["--dest=org.freedesktop.secrets", "--object-path=/org/freedesktop/secrets"]
        method = "--method=org.freedesktop.Secret.Service.Lock"
        keyrings = "['/org/freedesktop/secrets/collection/login']"
        subprocess.run(
            ["gdbus", "call", "--session", *service, method, keyrings],
            env=self.environ,
            check=True,
            capture_output=True,
        )

    def freeze(self) -> None:
        """Have the daemon answer nothing, as one that hangs."""
        self.daemon.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self.daemon.send_signal(signal.SIGCONT)

    def kill_daemon(self) -> None:
        self.daemon.kill()
        self.daemon.wait()

    def kill_bus(self) -> None:
        self.bus.kill()
        self.bus.wait()


@contextmanager
def run_secret_service() -> Generator[SecretService]:
    # Not pytest's tmp_path: a Unix socket's path has about a hundred characters.
    with tempfile.TemporaryDirectory(prefix="keyring-") as root:
        environ = {name: value for name, value in os.environ.items() if name not in _DISPLAYS}
        environ["HOME"] = root
        for name in ("CONFIG_HOME", "DATA_HOME", "CACHE_HOME", "RUNTIME_DIR"):
            folder = Path(root, name)
            folder.mkdir(mode=0o700)
            environ[f"XDG_{name}"] = str(folder)
        bus = subprocess.Popen(
            ["dbus-daemon", "--session", f"--address=unix:dir={root}", "--nofork", "--nopidfile", "--print-address=1"],
            env=environ,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        assert bus.stdout is not None
        with bus.stdout:
            environ["DBUS_SESSION_BUS_ADDRESS"] = bus.stdout.readline().strip()
        daemon = subprocess.Popen(
            ["gnome-keyring-daemon", "--foreground", "--unlock", "--components=secrets"],
            env=environ,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        service = SecretService(environ, bus, daemon)
        try:
            assert daemon.stdin is not None
            with daemon.stdin:
                daemon.stdin.write("password of the keyring")
            subprocess.run(
                ["gdbus", "wait", "--session", "--timeout", "20", "org.freedesktop.secrets"],
                env=environ,
                check=True,
            )
            yield service
        finally:
            service.kill_daemon()
            # A daemon that the bus had started in place of a killed one ends with the bus.
            service.kill_bus()


@pytest.fixture
def no_keyring(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A process without session bus or settings, in which `keyring` has yet to choose its backend."""
    for name in (*_DISPLAYS, "DBUS_SESSION_BUS_ADDRESS", "PYTHON_KEYRING_BACKEND"):
        monkeypatch.delenv(name, raising=False)
    for name in ("CONFIG_HOME", "DATA_HOME", "RUNTIME_DIR"):
        monkeypatch.setenv(f"XDG_{name}", str(tmp_path / name))
    monkeypatch.setattr("keyring.core._keyring_backend", None)
    monkeypatch.delattr(keyring.backend.get_all_keyring, "saved_result", raising=False)


@pytest.fixture
def secret_service(no_keyring: None, monkeypatch: pytest.MonkeyPatch) -> Generator[SecretService]:
    """A Secret Service that `keyring` finds, in this process and in those it starts."""
    missing = [program for program in _PROGRAMS if shutil.which(program) is None]
    if missing:
        reason = f"needs {', '.join(missing)} (apt-get install gnome-keyring dbus libglib2.0-bin)"
        if os.environ.get("KEYROUTER_REQUIRE_BACKENDS") == "1":
            pytest.fail(reason)
        pytest.skip(reason)
    with run_secret_service() as service:
        for name, value in service.environ.items():
            if name.startswith(("XDG_", "DBUS_")):
                monkeypatch.setenv(name, value)
        yield service
    # keyring leaves the connection of a call that failed to the garbage collector: its warning is not to come
    # up in somebody else's test.
    with warnings.catch_warnings(action="ignore", category=ResourceWarning):
        gc.collect()
