"""The memcached process, which never outlives its tests."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from typing import IO

from .._errors import EmcacheError


class MemcachedNotFoundError(EmcacheError, FileNotFoundError):
    """No memcached program was found."""


class MemcachedStartError(EmcacheError, RuntimeError):
    """memcached exited, or did not listen; the message contains its output."""


def find_memcached(binary: str | os.PathLike[str] | None = None) -> str:
    """Return the path of memcached: ``binary``, or from the environment, or from PATH."""
    named = os.fspath(binary) if binary else os.environ.get("EMCACHE_TEST_MEMCACHED")
    if found := shutil.which(named or "memcached"):
        return found
    if named:
        raise MemcachedNotFoundError(f"{named} is not an executable program")
    raise MemcachedNotFoundError(
        "memcached is not installed, or not on PATH (Debian: apt-get install memcached);"
        " EMCACHE_TEST_MEMCACHED can name the program"
    )


def has_option(binary: str, option: str) -> bool:
    """Return whether a memcached was built with an option, such as ``-Z``."""
    usage = subprocess.run([binary, "-h"], capture_output=True, text=True, check=False).stdout
    return any(line.startswith(f"{option},") for line in usage.splitlines())


def private_folder() -> str:
    """Create a folder for this user and the memcached that it starts."""
    if os.geteuid() != 0:
        return tempfile.mkdtemp(prefix="emcache-")
    # memcached refuses to run as root, and `nobody` may lack access to TMPDIR.
    folder = tempfile.mkdtemp(prefix="emcache-", dir="/tmp")
    shutil.chown(folder, "nobody")
    return folder


# Reads one line and exits. If its input ends without a line, its parent has died.
_WATCH = 'read -r _ || { kill -9 "$1"; rm -rf -- "$2"; }'


class Process:
    """A running memcached, killed when this process and its children have ended in any way."""

    def __init__(
        self, command: Sequence[str], environment: Mapping[str, str], folder: str, log: IO[bytes]
    ) -> None:
        self.paused = False
        self.popen = subprocess.Popen(
            command,
            env=os.environ | environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=log,
            # A separate group, so that Ctrl-C in a debugger does not stop it.
            process_group=0,
        )
        try:
            self._watcher = subprocess.Popen(
                ["/bin/sh", "-c", _WATCH, "sh", str(self.popen.pid), folder],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
        except BaseException:
            self.popen.kill()
            self.popen.wait()
            raise

    def pause(self) -> None:
        self.popen.send_signal(signal.SIGSTOP)
        # The signal is delivered asynchronously, above all to several threads.
        if sys.platform == "darwin":
            os.waitpid(self.popen.pid, os.WUNTRACED)
        else:
            # WNOWAIT: an exited process must remain for `wait`.
            os.waitid(os.P_PID, self.popen.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
        self.paused = True

    def resume(self) -> None:
        self.popen.send_signal(signal.SIGCONT)
        self.paused = False

    def terminate(self, timeout: float) -> None:
        self.resume()
        self.popen.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.popen.wait(timeout)
        self.kill()

    def kill(self) -> None:
        # First, because after `wait` another process may get its number.
        self._watcher.communicate(b"\n")
        self.popen.kill()
        self.popen.wait()
