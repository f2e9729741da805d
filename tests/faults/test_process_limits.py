"""A process that has no descriptor or thread left."""

import pytest

from support.isolated import run_program, run_silent

both_loops = pytest.mark.parametrize("loop", ["asyncio", "uvloop"])

DESCRIPTORS = """
expected = os.environ.get("EMCACHE_DRIVER") or "loop"

def take_all():
    taken = []
    with contextlib.suppress(OSError):
        while True:
            taken.append(os.open("/dev/null", os.O_RDONLY))
    return taken

async def attempt():
    '''Whether a client could be made.'''
    try:
        client = await create(timeout=2)
    except OSError as error:
        assert error.errno == 24 or "os error 24" in str(error), repr(error)
        return False
    assert client._core.driver == expected, client._core.driver
    with contextlib.suppress(emcache.NodeUnavailableError):
        await client.get(b"k")
    await client.close()
    return True

async def works():
    async with create(timeout=10) as client:
        assert client._core.driver == expected, client._core.driver
        await client.set(b"limits", b"v")
        assert (await client.get(b"limits")).value == b"v"

resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
"""


@pytest.fixture(params=[None, "thread"], ids=["whatever works", "the thread"])
def driver(request, monkeypatch):
    if request.param is None:
        monkeypatch.delenv("EMCACHE_DRIVER", raising=False)
    else:
        monkeypatch.setenv("EMCACHE_DRIVER", request.param)


@both_loops
@pytest.mark.usefixtures("driver")
def test_no_descriptor_is_left_for_a_new_client(server, loop):
    run_silent(
        DESCRIPTORS
        + """
async def main():
    taken = take_all()
    for _ in range(3):
        assert not await attempt()
    for descriptor in taken:
        os.close(descriptor)
    await works()

run(main())
""",
        loop,
        server.port,
    )


@both_loops
@pytest.mark.usefixtures("driver")
def test_a_few_descriptors_are_left_for_a_new_client(server, loop):
    """Wherever in the making of a client the last is taken, it is no reason for another driver."""
    run_silent(
        DESCRIPTORS
        + """
async def main():
    taken = take_all()
    made = []
    for _ in range(15):
        made.append(await attempt())
        os.close(taken.pop())
    assert not made[0] and made[-1], made
    for descriptor in taken:
        os.close(descriptor)
    await works()

run(main())
""",
        loop,
        server.port,
    )


@both_loops
def test_no_thread_can_be_started(server, loop, monkeypatch):
    """That of the driver goes on without the helpers that it has wait for the interpreter."""
    monkeypatch.setenv("EMCACHE_DRIVER", "thread")
    done = run_program(
        """
        async def main():
            async with create(timeout=10) as client:
                assert client._core.driver == "thread"
                await client.set(b"limits", b"v")
                # Helpers live on for a second after their last use.
                await asyncio.sleep(1.5)
                if os.geteuid() == 0:
                    # No limit is for root.
                    try:
                        os.setuid(12_345)
                    except OSError as error:
                        return print("skip:", error)
                soft, hard = resource.getrlimit(resource.RLIMIT_NPROC)
                resource.setrlimit(resource.RLIMIT_NPROC, (1, hard))
                try:
                    threading.Thread(target=int).start()
                except RuntimeError:
                    pass
                else:
                    return print("skip: threads can be started all the same")
                async with asyncio.timeout(10):
                    for number in range(3):
                        assert (await client.get(b"limits")).value == b"v"
                        found = await asyncio.gather(*(client.get(b"limits") for _ in range(20)))
                        assert {item.value for item in found} == {b"v"}
                resource.setrlimit(resource.RLIMIT_NPROC, (soft, hard))
                async with asyncio.timeout(10):
                    for number in range(3):
                        assert (await client.get(b"limits")).value == b"v"
            print("done")

        run(main())
        """,
        loop,
        server.port,
    )
    # A helper that cannot be started is told on stderr.
    said = done.stdout.strip()
    if said.startswith("skip: "):
        pytest.skip(said)
    assert (said, done.returncode) == ("done", 0), done.stderr
