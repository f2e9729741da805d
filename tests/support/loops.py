"""The event loops that tests run under: asyncio's, and uvloop where it can be installed."""

import asyncio
from collections.abc import Callable

try:
    import uvloop
except ImportError:  # It has no wheels for free-threaded Python.
    uvloop = None

LOOPS: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {"asyncio": asyncio.SelectorEventLoop}
if uvloop is not None:
    LOOPS["uvloop"] = uvloop.new_event_loop
