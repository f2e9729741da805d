"""Threads and child processes whose errors reach the test."""

import os
import threading
import time
import warnings


def in_threads(count, work, timeout=60):
    """Run ``work(number)`` in threads; raise what one of them raised."""
    errors = []

    def run(number):
        try:
            work(number)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout)
        assert not thread.is_alive()
    for error in errors:
        raise error


def in_child(work):
    """Run ``work()`` in the child of a fork, and check that it returned True."""
    with warnings.catch_warnings():
        # Python 3.12 and later: the process has threads.
        warnings.simplefilter("ignore", DeprecationWarning)
        pid = os.fork()
    if pid == 0:
        code = 1
        try:
            code = 0 if work() else 2
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def until(condition, timeout=20):
    """Wait until ``condition()`` is true."""
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)
