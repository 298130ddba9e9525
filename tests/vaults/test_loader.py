"""The router's door to the secrets: each read once, off the event loop, with a deadline."""

from __future__ import annotations

import subprocess
import sys
import threading
import traceback
from collections import Counter
from collections.abc import Generator

import anyio
import pytest
from anyio.abc import TaskStatus
from pydantic import SecretStr

from keyrouter_openai.errors import VaultError
from keyrouter_openai.vaults.loader import SecretLoader
from keyrouter_openai.vaults.memory import MemoryVault

CANARY = SecretStr("sk-canary-0123456789")
LONG = 60.0


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    return request.param


class SlowVault(MemoryVault):
    """Answers when it is told to, and counts what it was asked."""

    name = "slow vault"

    def __init__(self, **secrets: str) -> None:
        super().__init__({name: SecretStr(secret) for name, secret in secrets.items()})
        self.reads = Counter[str]()
        self.asked = threading.Event()
        self.may_answer = threading.Event()

    def get(self, pool: str, key: str) -> SecretStr | None:
        self.reads[key] += 1
        self.asked.set()
        assert self.may_answer.wait(LONG)
        return super().get(pool, key)


@pytest.fixture
def vault() -> Generator[SlowVault]:
    """A vault that does not answer before `may_answer` is set; no read of it outlives the test."""
    vault = SlowVault(a=CANARY.get_secret_value(), b="sk-b")
    yield vault
    vault.may_answer.set()
    wait_for_reads()


def wait_for_reads() -> None:
    """Wait until every read that was begun has ended."""
    for thread in threading.enumerate():
        if thread.name.startswith("keyrouter-secret-"):
            thread.join(LONG)
            assert not thread.is_alive()


def shown(error: BaseException) -> str:
    """The traceback with all local variables, but for those of the test itself."""
    assert error.__traceback__ is not None
    frames = error.__traceback__.tb_next
    return "".join(traceback.TracebackException(type(error), error, frames, capture_locals=True).format())


class TestReading:
    async def test_a_secret_is_read_once_and_then_in_memory(self, vault: SlowVault) -> None:
        vault.may_answer.set()
        loader = SecretLoader(vault, "default")
        assert loader.cached("a") is None
        assert await loader.load("a") == CANARY
        assert loader.cached("a") == CANARY
        assert await loader.load("a") == CANARY
        assert loader.load_sync("a") == CANARY
        assert vault.reads == {"a": 1}
        assert loader.cached("b") is None

    async def test_callers_at_once_share_one_read(self, vault: SlowVault) -> None:
        loader = SecretLoader(vault, "default")
        found: list[SecretStr] = []

        async def load() -> None:
            found.append(await loader.load("a"))

        async with anyio.create_task_group() as tasks:
            for _ in range(20):
                tasks.start_soon(load)
            await anyio.wait_all_tasks_blocked()
            vault.may_answer.set()
        assert found == [CANARY] * 20
        assert vault.reads == {"a": 1}

    def test_threads_at_once_share_one_read(self, vault: SlowVault) -> None:
        loader = SecretLoader(vault, "default")
        found: list[SecretStr] = []
        threads = [threading.Thread(target=lambda: found.append(loader.load_sync("a")), daemon=True) for _ in range(8)]
        for thread in threads:
            thread.start()
        vault.may_answer.set()
        for thread in threads:
            thread.join(LONG)
        assert found == [CANARY] * 8
        assert vault.reads == {"a": 1}

    def test_two_event_loops_share_one_read(self, vault: SlowVault) -> None:
        loader = SecretLoader(vault, "default")
        found: list[SecretStr] = []

        async def load() -> None:
            found.append(await loader.load("a"))

        threads = [
            threading.Thread(target=anyio.run, args=(load,), kwargs={"backend": backend}, daemon=True)
            for backend in ("asyncio", "trio")
        ]
        for thread in threads:
            thread.start()
        assert vault.asked.wait(LONG)
        vault.may_answer.set()
        for thread in threads:
            thread.join(LONG)
        assert found == [CANARY] * 2
        assert vault.reads == {"a": 1}

    async def test_the_event_loop_runs_on_meanwhile(self, vault: SlowVault) -> None:
        loader = SecretLoader(vault, "default")

        async def answer(*, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
            task_status.started()
            vault.may_answer.set()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(loader.load, "a")
            await anyio.wait_all_tasks_blocked()
            await tasks.start(answer)
        assert loader.cached("a") == CANARY

    async def test_a_forgotten_secret_is_read_again(self, vault: SlowVault) -> None:
        vault.may_answer.set()
        loader = SecretLoader(vault, "default")
        loader.forget("a")
        await loader.load("a")
        vault.set("default", "a", SecretStr("sk-rotated"))
        loader.forget("a")
        assert loader.cached("a") is None
        assert await loader.load("a") == SecretStr("sk-rotated")

    async def test_blanks_around_a_secret_are_taken_off(self) -> None:
        loader = SecretLoader(MemoryVault({"a": SecretStr(" sk-a\n")}), "default")
        assert await loader.load("a") == SecretStr("sk-a")


class TestCancelling:
    async def test_one_caller_leaves_the_read_to_the_others(self, vault: SlowVault) -> None:
        loader = SecretLoader(vault, "default")
        async with anyio.create_task_group() as others:
            others.start_soon(loader.load, "a")
            async with anyio.create_task_group() as cancelled:
                cancelled.start_soon(loader.load, "a")
                await anyio.wait_all_tasks_blocked()
                cancelled.cancel_scope.cancel()
            vault.may_answer.set()
        assert loader.cached("a") == CANARY
        assert vault.reads == {"a": 1}

    async def test_a_read_whose_only_caller_is_gone_serves_the_next(self, vault: SlowVault) -> None:
        loader = SecretLoader(vault, "default")
        await give_up_on(loader)
        vault.may_answer.set()
        assert await loader.load("a") == CANARY
        assert vault.reads == {"a": 1}


class TestForgetting:
    async def test_a_read_that_hangs_gives_way_to_another(self, vault: SlowVault) -> None:
        loader = SecretLoader(vault, "default")
        await give_up_on(loader)
        loader.forget("a")
        vault.may_answer.set()
        assert await loader.load("a") == CANARY
        assert vault.reads == {"a": 2}

    async def test_its_late_failure_takes_nothing_away(self) -> None:
        hung, may_fail = threading.Event(), threading.Event()

        class HungOnce(MemoryVault):
            def get(self, pool: str, key: str) -> SecretStr | None:
                if hung.is_set():
                    return CANARY
                hung.set()
                assert may_fail.wait(LONG)
                raise VaultError("timed out")

        loader = SecretLoader(HungOnce({}), "default")
        await give_up_on(loader)
        assert hung.wait(LONG)
        loader.forget("a")
        await loader.load("a")
        may_fail.set()
        wait_for_reads()
        assert loader.cached("a") == CANARY


async def give_up_on(loader: SecretLoader) -> None:
    """Ask for a secret and be cancelled while waiting for it."""
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(loader.load, "a")
        await anyio.wait_all_tasks_blocked()
        tasks.cancel_scope.cancel()


class TestFailing:
    async def test_a_missing_secret(self) -> None:
        loader = SecretLoader(MemoryVault({}), "team")
        with pytest.raises(VaultError, match="key 'a' of pool 'team': no secret in the memory") as caught:
            await loader.load("a")
        assert "`keyrouter-openai keys add a --pool team`" in str(caught.value)

    @pytest.mark.parametrize("secret", ["", "sk-canary 0123456789", "sk-canary\n0123456789", "sk-canary-🔑"])
    async def test_a_secret_that_no_header_can_carry(self, secret: str) -> None:
        loader = SecretLoader(MemoryVault({"a": SecretStr(secret)}), "default")
        with pytest.raises(
            VaultError, match=r"key 'a' of pool 'default': unusable in the memory .*keys add a"
        ) as caught:
            await loader.load("a")
        assert "canary" not in shown(caught.value)
        assert caught.value.__context__ is None

    async def test_a_failure_is_not_kept(self, vault: SlowVault) -> None:
        vault.may_answer.set()
        vault.delete("default", "a")
        loader = SecretLoader(vault, "default")
        for _ in range(2):
            with pytest.raises(VaultError):
                await loader.load("a")
        with pytest.raises(VaultError):
            loader.load_sync("a")
        vault.set("default", "a", CANARY)
        assert await loader.load("a") == CANARY
        assert vault.reads == {"a": 4}

    async def test_each_caller_gets_an_exception_of_its_own(self, vault: SlowVault) -> None:
        loader = SecretLoader(vault, "default")
        caught: list[VaultError] = []

        async def load() -> None:
            try:
                await loader.load("missing")
            except VaultError as error:
                caught.append(error)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(load)
            tasks.start_soon(load)
            await anyio.wait_all_tasks_blocked()
            vault.may_answer.set()
        assert len({id(error) for error in caught}) == 2
        assert vault.reads == {"missing": 1}

    @pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
    async def test_a_faulty_vault_leaves_nobody_waiting(self, vault: SlowVault) -> None:
        def get(pool: str, key: str) -> SecretStr | None:
            raise AttributeError("a bug of the vault")

        vault.get = get
        loader = SecretLoader(vault, "default", deadline=LONG)
        with pytest.raises(VaultError, match="key 'a' of pool 'default': the slow vault broke down"):
            await loader.load("a")


class TestDeadline:
    async def test_it_holds_in_an_event_loop(self, vault: SlowVault) -> None:
        loader = SecretLoader(vault, "default", deadline=0.01)
        with pytest.raises(VaultError, match=r"key 'a' of .* the slow vault gave no answer within 0\.01 s") as caught:
            await loader.load("a")
        assert "`keyrouter-openai keys add a --pool default`" in str(caught.value)

    def test_it_holds_in_a_thread(self, vault: SlowVault) -> None:
        loader = SecretLoader(vault, "default", deadline=0.01)
        with pytest.raises(VaultError, match=r"key 'a' of .* the slow vault gave no answer within 0\.01 s"):
            loader.load_sync("a")

    async def test_a_read_that_missed_it_fails_later_callers_at_once_and_serves_them_when_it_ends(
        self, vault: SlowVault, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        loader = SecretLoader(vault, "default", deadline=0.01)
        with pytest.raises(VaultError):
            await loader.load("a")
        with anyio.CancelScope() as scope:
            # Whoever had to wait would be cancelled.
            scope.cancel()
            with pytest.raises(VaultError):
                await loader.load("a")
        assert not scope.cancelled_caught
        with pytest.raises(VaultError), monkeypatch.context() as nobody_may:
            nobody_may.setattr("keyrouter_openai.vaults.loader.wait", pytest.fail)
            loader.load_sync("a")
        vault.may_answer.set()
        wait_for_reads()
        assert await loader.load("a") == CANARY
        assert vault.reads == {"a": 1}

    def test_a_loop_that_has_ended_disturbs_no_later_one(
        self, vault: SlowVault, caplog: pytest.LogCaptureFixture
    ) -> None:
        loader = SecretLoader(vault, "default", deadline=0.01)
        for backend in ("asyncio", "trio"):
            loader.forget("a")
            with pytest.raises(VaultError):
                anyio.run(loader.load, "a", backend=backend)
        vault.may_answer.set()
        wait_for_reads()
        assert anyio.run(loader.load, "a") == CANARY
        assert not caplog.messages

    def test_a_read_that_hangs_keeps_no_process_from_its_exit(self) -> None:
        program = (
            "import threading\n"
            "from keyrouter_openai.errors import VaultError\n"
            "from keyrouter_openai.vaults.loader import SecretLoader\n"
            "from keyrouter_openai.vaults.memory import MemoryVault\n"
            "vault = MemoryVault({})\n"
            "vault.get = lambda pool, key: threading.Event().wait()\n"
            "try: SecretLoader(vault, 'default', deadline=0.01).load_sync('a')\n"
            "except VaultError: print('late')\n"
        )
        child = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, timeout=60)
        assert child.stdout == b"late\n"


async def test_no_secret_shows(vault: SlowVault) -> None:
    vault.may_answer.set()
    loader = SecretLoader(vault, "default")
    await loader.load("a")
    with pytest.raises(VaultError) as caught:
        await loader.load("missing")
    assert "canary" not in repr(loader) + repr(vars(loader)) + shown(caught.value)
