"""asyncio's debug mode, which is there to find the code that keeps the loop from going on."""

import asyncio
import logging
import time

import pytest

from support.calls import client_of, within

SLOW = 0.05


@pytest.fixture
def blamed(caplog):
    """What asyncio says of callbacks that took long; each is given once."""
    caplog.set_level(logging.WARNING, "asyncio")

    def blamed():
        texts = [record.getMessage() for record in caplog.records if record.name == "asyncio"]
        caplog.clear()
        return [text for text in texts if text.startswith("Executing ")]

    return blamed


async def blocking_code(wait):
    await wait()
    time.sleep(4 * SLOW)


async def found(blamed, wait) -> bool:
    """Whether the one who blocks the loop is named, and nobody else in its place."""
    loop = asyncio.get_running_loop()
    loop.slow_callback_duration = SLOW
    await asyncio.create_task(blocking_code(wait))
    # Told when the callback has returned.
    await asyncio.sleep(0)
    texts = blamed()
    for text in texts:
        # Whatever else a busy machine was slow at.
        took = float(text.split(" took ")[1].split()[0])
        assert "blocking_code" in text or took < 4 * SLOW, text
    return any("blocking_code" in text for text in texts)


@within(20)
async def test_who_blocks_behind_a_call_is_named(server, blamed):
    asyncio.get_running_loop().set_debug(True)
    async with client_of(server) as client:
        assert await found(blamed, lambda: client.get(b"k"))


@within(20)
@pytest.mark.parametrize(
    "wait",
    [
        lambda client: client.get_many([b"k", b"l"]),
        lambda client: client.set(b"k", b"v"),
        lambda client: client.set_many({b"k": b"v", b"l": b"w"}),
        lambda client: client.version(client.cluster_managment().nodes()[0]),
        lambda client: asyncio.gather(client.get(b"k"), client.get(b"l")),
        lambda client: asyncio.wait_for(client.get(b"k"), 5),
    ],
    ids=["get_many", "set", "set_many", "version", "gather", "wait_for"],
)
async def test_it_is_named_behind_any_call(server, blamed, wait):
    asyncio.get_running_loop().set_debug(True)
    async with client_of(server) as client:
        assert await found(blamed, lambda: wait(client))


@within(20)
async def test_debug_mode_begins_and_ends_at_any_time(server, blamed):
    loop = asyncio.get_running_loop()
    async with client_of(server) as client:
        for debug in (False, True, False, True):
            loop.set_debug(debug)
            assert await found(blamed, lambda: client.get(b"k")) == debug


class RunsInAWayOfItsOwn(asyncio.SelectorEventLoop):
    """As the loops of GUI toolkits: a dialog that a task opens runs it, too."""

    def run_forever(self):
        super().run_forever()

    def run_dialog(self, is_over):
        task = asyncio.current_task(self)
        asyncio.tasks._leave_task(self, task)
        try:
            while not is_over():
                self._run_once()
        finally:
            asyncio.tasks._enter_task(self, task)


def test_a_loop_that_runs_in_a_way_of_its_own(server, caplog, key):
    async def main():
        async with client_of(server) as client:
            loop = asyncio.get_running_loop()
            for _ in range(3):
                await client.get(key)
                dialog = loop.create_task(client.get(key))
                loop.run_dialog(dialog.done)
                assert dialog.result() is None

    with asyncio.Runner(loop_factory=RunsInAWayOfItsOwn, debug=False) as runner:
        runner.run(asyncio.wait_for(main(), 20))
    assert [record for record in caplog.records if record.name == "asyncio"] == []
