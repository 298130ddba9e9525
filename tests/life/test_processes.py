"""Forks, workers, and the end of a process: calls go on, and what happened is on record."""

from __future__ import annotations

import sys

import pytest

from keyrouter_openai.testing import ProviderSimulator

from .support import Program

posix = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no fork")


@posix
@pytest.mark.parametrize("used", [False, True], ids=["after import", "after first use"])
def test_a_fork_goes_on_beside_its_parent(program: Program, *, used: bool) -> None:
    """The SDK's client goes on with the connection of its parent: each gets parts of the other's answers."""
    program.run(f"""
        def ask(text):
            chat = {{**CHAT, "messages": [{{"role": "user", "content": text}}]}}
            assert client.chat.completions.create(**chat).choices[0].message.content == text

        client = SyncRoutedOpenAI()
        if {used}:
            ask("first")
        child = os.fork()
        for number in range(50):
            ask(f"{{child}} {{number}}")
        if child:
            assert os.waitpid(child, 0)[1] == 0
    """)
    assert program.outcomes() == ["ok"] * (101 if used else 100)


@posix
def test_a_fork_has_a_loop_of_its_own(program: Program) -> None:
    program.run("""
        client = RoutedOpenAI()

        async def main():
            await client.chat.completions.create(**CHAT)
            await client.close()

        child = os.fork()
        asyncio.run(main())
        if child:
            assert os.waitpid(child, 0)[1] == 0
    """)
    assert program.outcomes() == ["ok", "ok"]


@posix
def test_a_fork_leaves_the_calls_of_its_parent_to_its_parent(program: Program) -> None:
    program.run("""
        client = SyncRoutedOpenAI()
        stream = client.chat.completions.create(**CHAT, stream=True)
        next(stream)
        child = os.fork()
        if child:
            assert os.waitpid(child, 0)[1] == 0
            list(stream)
    """)
    assert program.outcomes() == ["ok"]


@pytest.mark.parametrize(
    "method", ["spawn", pytest.param("fork", marks=posix), pytest.param("forkserver", marks=posix)]
)
def test_workers_have_their_last_calls_on_record(program: Program, method: str) -> None:
    """`multiprocessing` ends them with `os._exit`, a moment after the call."""
    program.run(f"""
        import multiprocessing

        client = SyncRoutedOpenAI()

        def work():
            client.chat.completions.create(**CHAT)
            global left_open
            left_open = client.chat.completions.create(**CHAT, stream=True)

        if __name__ == "__main__":
            context = multiprocessing.get_context({method!r})
            workers = [context.Process(target=work) for _ in range(3)]
            for worker in workers:
                worker.start()
            for worker in workers:
                worker.join()
                assert worker.exitcode == 0
    """)
    assert program.outcomes() == ["abandoned"] * 3 + ["ok"] * 3


def test_a_stream_that_is_open_at_the_end_is_on_record(program: Program) -> None:
    program.run("""
        client = SyncRoutedOpenAI()
        client.chat.completions.create(**CHAT)
        stream = client.chat.completions.create(**CHAT, stream=True)
        next(stream)
    """)
    assert program.outcomes() == ["abandoned", "ok"]


def test_an_async_stream_that_is_open_at_the_end_is_on_record(program: Program) -> None:
    source = """
        async def main():
            global client, stream
            client = RoutedOpenAI()
            await client.chat.completions.create(**CHAT)
            stream = await client.chat.completions.create(**CHAT, stream=True)
            await anext(stream)

        asyncio.run(main())
    """
    # The loop closes the HTTP library's generators all at once, each of which closes others: with any client.
    program.run(source, noise="aclose(): asynchronous generator is already running")
    assert program.outcomes() == ["abandoned", "ok"]


def test_calls_in_flight_at_the_end_are_on_record(sim: ProviderSimulator, program: Program) -> None:
    sim.fail("hang")
    program.run("""
        import time

        client = SyncRoutedOpenAI()
        for _ in range(4):
            threading.Thread(target=client.chat.completions.create, kwargs=CHAT, daemon=True).start()
        while client.router.status().in_flight < 4:
            time.sleep(0.001)
    """)
    assert program.outcomes() == ["abandoned"] * 4


def test_a_thread_that_makes_calls_at_the_end_is_no_obstacle(program: Program) -> None:
    """Many streams are open, and still more are opened while those are settled."""
    program.run("""
        from keyrouter_openai._sdk import httpx2

        def answer(request):
            event = b'data: {"choices": [{"index": 0, "delta": {"content": "a"}}]}\\n\\n'
            return httpx2.Response(200, headers={"content-type": "text/event-stream"}, content=iter([event]))

        def open_streams():
            while True:
                streams.append(client.chat.completions.create(**CHAT, stream=True))
                if len(streams) == 1000:
                    sys.setswitchinterval(1e-6)
                    many.set()

        streams, many = [], threading.Event()
        client = SyncRoutedOpenAI(http_client=httpx2.Client(transport=httpx2.MockTransport(answer)))
        threading.Thread(target=open_streams, daemon=True).start()
        many.wait()
    """)
    assert set(program.outcomes()) == {"abandoned"}


def test_tasks_in_flight_at_the_end_are_on_record(sim: ProviderSimulator, program: Program) -> None:
    sim.fail("hang")
    program.run("""
        async def main():
            client = RoutedOpenAI()
            tasks = [asyncio.create_task(client.chat.completions.create(**CHAT)) for _ in range(4)]
            while client.router.status().in_flight < 4:
                await asyncio.sleep(0)

        asyncio.run(main())
    """)
    assert program.outcomes() == ["abandoned"] * 4


def test_a_call_while_the_interpreter_ends_is_on_record(program: Program) -> None:
    program.run("""
        import atexit

        client = SyncRoutedOpenAI()
        client.chat.completions.create(**CHAT)
        atexit.register(client.close)
        atexit.register(lambda: client.chat.completions.create(**CHAT))
    """)
    assert program.outcomes() == ["ok", "ok"]
