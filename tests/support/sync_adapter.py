"""The synchronous client behind the interface of the asynchronous one.

With ``EMCACHE_TEST_CLIENT=sync`` the tests that create clients run against the synchronous client:
each call runs in a thread, so calls of one test may overlap as tasks do.
"""

import asyncio
import concurrent.futures
import contextlib
import functools
import inspect
import weakref

import emcache
import emcache.sync

_THREADS = weakref.WeakKeyDictionary()


def in_thread(function):
    """Run a function in the thread of the current task: what a task does in order, it does too."""
    task = asyncio.current_task()
    if (thread := _THREADS.get(task)) is None:
        thread = _THREADS[task] = concurrent.futures.ThreadPoolExecutor(1)
        task.add_done_callback(lambda _: thread.shutdown(wait=False))
    return asyncio.get_running_loop().run_in_executor(thread, function)


class AsyncFacade(emcache.Client):
    """Awaits what the synchronous client returns."""

    def __init__(self, client):
        self._client = client

    @property
    def closed(self):
        return self._client.closed

    @property
    def _core(self):
        return self._client._core

    def __repr__(self):
        return repr(self._client)

    def __del__(self):
        pass

    async def __aenter__(self):
        return self

    async def __aexit__(self, *_):
        await self.close()


def _awaited(name):
    original = getattr(emcache.Client, name)

    @functools.wraps(original)
    async def call(self, *args, **kwargs):
        method = functools.partial(getattr(self._client, name), *args, **kwargs)
        return await in_thread(method)

    return call


def _direct(name):
    def call(self, *args, **kwargs):
        return getattr(self._client, name)(*args, **kwargs)

    return call


for name, member in inspect.getmembers(emcache.Client, inspect.isfunction):
    if not name.startswith("_"):
        make = _awaited if inspect.iscoroutinefunction(member) else _direct
        setattr(AsyncFacade, name, make(name))
# The cache on top of a client asks for it.
AsyncFacade._server_epoch = _direct("_server_epoch")


class _Creation:
    def __init__(self, create):
        self._create = create

    def __await__(self):
        return self._run().__await__()

    async def _run(self):
        return AsyncFacade(await in_thread(self._create))

    async def __aenter__(self):
        self._client = await self._run()
        return self._client

    async def __aexit__(self, *_):
        with contextlib.suppress(AttributeError):
            await self._client.close()


def create_client(*args, **kwargs):
    return _Creation(functools.partial(emcache.sync.create_client, *args, **kwargs))


#: Tests that change arguments while a coroutine has them, or wait for a change of a node without a
#: call that would notice it.
ASYNCHRONOUS = (
    "test_mutated_after_the_call_was_made",
    "test_no_node_is_left",
    "test_where_all_nodes_are_down",
    "test_what_is_as_good_as_it",
    "test_up_and_down",
    "test_another_thread_sees_changes",
)


def is_asynchronous(name):
    """Whether a test is about what the synchronous client does not have."""
    return name.startswith(ASYNCHRONOUS)


def install():
    """Replace ``emcache.create_client``."""
    emcache.create_client = create_client
