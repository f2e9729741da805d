"""The local cache of a synchronous client: all threads share its items."""

import asyncio
import contextlib
import threading
import weakref
from collections import OrderedDict
from typing import Any

from ..cache._local_items import LocalCache, LocalChanges, LocalItem, LocalItems
from ._client import Client


class _Table(OrderedDict[bytes, LocalItem]):
    """Other threads may drop an item while one uses it."""

    def move_to_end(self, key: bytes, last: bool = True) -> None:
        with contextlib.suppress(KeyError):
            super().move_to_end(key, last)


class SharedItems(LocalItems):
    """Items for all threads. A read is compared with the changes and kept in one step."""

    changes: "SharedChanges"

    def __init__(self, options: LocalCache, changes: "SharedChanges") -> None:
        super().__init__(options, changes)
        self.table = _Table()

    @property
    def loop(self) -> asyncio.AbstractEventLoop | None:
        """The loop of the calling thread: the client belongs to no loop."""
        return asyncio._get_running_loop()

    @loop.setter
    def loop(self, loop: Any) -> None:
        pass

    def offer(self, name: bytes, item: LocalItem, length: int) -> None:
        with self.changes.lock:
            super().offer(name, item, length)

    def drop(self, name: bytes) -> None:
        with self.changes.lock:
            super().drop(name)

    def clear(self) -> None:
        with self.changes.lock:
            super().clear()


class SharedChanges(LocalChanges):
    """The changes that all threads make with one client."""

    def __init__(self) -> None:
        super().__init__()
        self.start()

    def start(self) -> None:
        """Create the lock; the child of a fork may have inherited one that is held."""
        # Reentrant, because the garbage collector and signal handlers run anywhere.
        self.lock = threading.RLock()

    def _new_items(self, options: LocalCache) -> LocalItems:
        return SharedItems(options, self)

    def items_of(self, options: LocalCache) -> LocalItems:
        with self.lock:
            return super().items_of(options)

    def forget(self, name: bytes) -> None:
        if self._all:
            with self.lock:
                self._note((name,))
                # A copy: the last cache of other items may go away meanwhile.
                for reference in tuple(self._all):
                    if (items := reference()) is not None:
                        items.drop(name)

    def _note(self, names: Any) -> None:
        with self.lock:
            super()._note(names)

    def clear(self) -> None:
        with self.lock:
            super().clear()


_BY_CLIENT: "weakref.WeakKeyDictionary[Client, SharedChanges]" = weakref.WeakKeyDictionary()


def changes_of(client: Client) -> SharedChanges:
    """Return the changes of a client, which its caches in all threads share."""
    changes = _BY_CLIENT.get(client)
    if changes is None:
        changes = _BY_CLIENT.setdefault(client, SharedChanges())
        client._before_close = (*client._before_close, changes.clear)  # type: ignore[arg-type]
    return changes


def after_fork() -> None:
    """Let the child use the items that it has inherited."""
    for changes in list(_BY_CLIENT.values()):
        changes.start()
