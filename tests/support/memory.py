"""Tests that measure the memory that Python allocates."""

import os

import pytest

traces_memory = pytest.mark.skipif(
    os.environ.get("EMCACHE_DRIVER") == "thread",
    reason="tracemalloc of CPython 3.11.7 is not safe while helper threads attach",
)
