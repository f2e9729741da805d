"""A live screen: keys, signals and resizes, in the event loop."""

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Callable, Iterator


@contextlib.contextmanager
def end_on_signals() -> Iterator[asyncio.Event]:
    """Yield an event that signals set, so that Ctrl-C quits without an error."""
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    signals = (signal.SIGINT, signal.SIGTERM)
    try:
        for number in signals:
            loop.add_signal_handler(number, ended.set)
    except (NotImplementedError, RuntimeError, ValueError):
        # Windows, or not the main thread.
        yield ended
        return
    try:
        yield ended
    finally:
        for number in signals:
            loop.remove_signal_handler(number)


@contextlib.contextmanager
def keys_pressed(ended: asyncio.Event, pressed: Callable[[str], None]) -> Iterator[None]:
    """Call ``pressed`` with each key, in lower case; q and the end of the input set ``ended``."""
    if not sys.stdin.isatty():
        yield
        return
    try:
        import termios
        import tty
    except ImportError:
        yield
        return
    loop = asyncio.get_running_loop()
    descriptor = sys.stdin.fileno()
    before = termios.tcgetattr(descriptor)

    def readable() -> None:
        data = os.read(descriptor, 64)
        if not data or b"q" in data.lower() or b"\x04" in data:
            loop.remove_reader(descriptor)
            ended.set()
        elif not data.startswith(b"\x1b"):
            for key in data.decode("ascii", "ignore").lower():
                pressed(key)

    tty.setcbreak(descriptor)
    loop.add_reader(descriptor, readable)
    try:
        yield
    finally:
        loop.remove_reader(descriptor)
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)


@contextlib.contextmanager
def on_resize(draw: Callable[[], None]) -> Iterator[None]:
    """Call ``draw`` when the size of the terminal changes."""
    loop = asyncio.get_running_loop()
    number = getattr(signal, "SIGWINCH", None)
    if number is None:
        yield
        return
    try:
        loop.add_signal_handler(number, draw)
    except (NotImplementedError, RuntimeError, ValueError):
        yield
        return
    try:
        yield
    finally:
        loop.remove_signal_handler(number)
