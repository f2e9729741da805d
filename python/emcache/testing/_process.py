"""The process of a memcached: found, started, and never left behind."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from typing import IO


class MemcachedNotFoundError(FileNotFoundError):
    """There is no memcached to be run."""


class MemcachedStartError(RuntimeError):
    """memcached ended, or did not listen; the text has what it said."""


def find_memcached(binary: str | os.PathLike[str] | None = None) -> str:
    """Give the program's path: as named, else by the environment, else from PATH."""
    named = os.fspath(binary) if binary else os.environ.get("EMCACHE_TEST_MEMCACHED")
    if found := shutil.which(named or "memcached"):
        return found
    if named:
        raise MemcachedNotFoundError(f"{named} is no program that can be run")
    raise MemcachedNotFoundError(
        "memcached is not installed, or not on PATH (Debian: apt-get install memcached);"
        " the variable EMCACHE_TEST_MEMCACHED may name it"
    )


def has_option(binary: str, option: str) -> bool:
    """Whether a memcached was built with an option, say ``-Z``."""
    said = subprocess.run([binary, "-h"], capture_output=True, text=True, check=False).stdout
    return any(line.startswith(f"{option},") for line in said.splitlines())


def private_folder() -> str:
    """Make a folder that only we, and a memcached that we start, can enter."""
    if os.geteuid() != 0:
        return tempfile.mkdtemp(prefix="emcache-")
    # memcached refuses to run as root; as nobody it may not enter what is below TMPDIR.
    folder = tempfile.mkdtemp(prefix="emcache-", dir="/tmp")
    shutil.chown(folder, "nobody")
    return folder


# Says a line to be dismissed. The end of its input is the end of whoever started it.
_WATCH = 'read -r _ || { kill -9 "$1"; rm -rf -- "$2"; }'


class Process:
    """A running memcached, which ends with this process and its children, whatever ends it."""

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
            # Not in ours: Ctrl-C in a debugger is not meant for it.
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
        # The signal takes its time, above all with several threads.
        if sys.platform == "darwin":
            os.waitpid(self.popen.pid, os.WUNTRACED)
        else:
            # One that ended instead stays for `wait`.
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
        # First: once it is waited for, its number may be somebody else's.
        self._watcher.communicate(b"\n")
        self.popen.kill()
        self.popen.wait()
