"""Annotations can be resolved at run time, as dependency injection and tools for docs do."""

import importlib
import inspect
import pkgutil
import subprocess
import sys
import typing
from datetime import datetime, timedelta

import pytest

import emcache

pytestmark = pytest.mark.driver_independent


def public_modules():
    yield "emcache"
    for module in pkgutil.walk_packages(emcache.__path__, "emcache."):
        if not any(part.startswith("_") for part in module.name.split(".")):
            yield module.name


def is_ours(thing: object) -> bool:
    return str(getattr(thing, "__module__", "")).split(".")[0] == "emcache"


def members(module):
    """Public functions and classes, and the methods and properties of these."""
    names = getattr(module, "__all__", None) or [n for n in vars(module) if not n.startswith("_")]
    for name in names:
        thing = getattr(module, name)
        if not (inspect.isclass(thing) or inspect.isroutine(thing)) or not is_ours(thing):
            continue
        yield name, thing
        if not inspect.isclass(thing):
            continue
        for method, value in inspect.getmembers(thing):
            if method.startswith("_") and method not in ("__init__", "__aenter__", "__call__"):
                continue
            function = value.fget if isinstance(value, property) else value
            if inspect.isroutine(function) and is_ours(function):
                yield f"{name}.{method}", function


@pytest.mark.parametrize("name", [*public_modules()])
def test_hints_and_signatures(name):
    module = importlib.import_module(name)
    failed = {}
    for member, thing in members(module):
        try:
            typing.get_type_hints(thing)
            # Before Python 3.13 exceptions have none.
            if not (inspect.isclass(thing) and issubclass(thing, BaseException | dict)):
                inspect.signature(thing)
        except Exception as error:
            failed[member] = error
    assert failed == {}


def test_there_are_many():
    found = [
        member for name in public_modules() for member in members(importlib.import_module(name))
    ]
    assert len(found) > 300


@pytest.mark.parametrize("name", [*emcache.__all__])
def test_in_a_program_that_has_imported_nothing_else(name):
    """What a class is annotated with may not have been imported by anybody."""
    program = f"""
import inspect, typing, emcache
thing = emcache.{name}
if inspect.isclass(thing) or inspect.isfunction(thing):
    typing.get_type_hints(thing)
    for method in vars(thing).values() if inspect.isclass(thing) else ():
        if inspect.isfunction(method):
            typing.get_type_hints(method)
"""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_what_they_are():
    hints = typing.get_type_hints(emcache.create_client)
    assert hints["autodiscovery"] == bool | emcache.Discovery
    hints = typing.get_type_hints(emcache.Client.set)
    assert hints["exptime"] == int | timedelta | datetime
    assert typing.get_type_hints(emcache.Client.set_many)["return"] is emcache.ManyResult
    assert typing.get_type_hints(emcache.Client.metrics)["return"] is emcache.ClientMetrics
