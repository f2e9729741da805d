"""The synchronous client has the methods, signatures and documentation of the asynchronous one."""

import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import emcache
import emcache.sync

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.driver_independent


def public(kind):
    return {
        name: member
        for name, member in inspect.getmembers(kind, callable)
        if not name.startswith("_")
    }


def test_the_generated_files_are_up_to_date():
    command = [sys.executable, str(ROOT / "tools" / "make_sync.py"), "--check"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_both_clients_have_the_same_methods_and_parameters():
    asynchronous, synchronous = public(emcache.Client), public(emcache.sync.Client)
    assert asynchronous.keys() == synchronous.keys()
    for name, method in asynchronous.items():
        ours = inspect.signature(synchronous[name]).parameters
        theirs = inspect.signature(method).parameters
        assert [(p.name, p.kind, p.default) for p in ours.values()] == [
            (p.name, p.kind, p.default) for p in theirs.values()
        ], name
        assert not inspect.iscoroutinefunction(synchronous[name]), name


def test_both_have_the_same_options():
    ours = dict(inspect.signature(emcache.sync.create_client).parameters)
    theirs = dict(inspect.signature(emcache.create_client).parameters)
    assert ours.pop("allow_in_event_loop").default is False
    assert [(p.name, p.kind, p.default) for p in ours.values()] == [
        (p.name, p.kind, p.default) for p in theirs.values()
    ]


def test_both_caches_and_urls_have_the_same_options():
    for ours, theirs in [
        (emcache.sync.Cache, emcache.Cache),
        (emcache.sync.from_url, emcache.from_url),
        (emcache.sync.cached, emcache.cached),
        (emcache.sync.Client.migrate, emcache.Client.migrate),
    ]:
        mine, other = (inspect.signature(each).parameters.values() for each in (ours, theirs))
        assert [(p.name, p.kind, p.default) for p in mine] == [
            (p.name, p.kind, p.default) for p in other
        ]


def test_both_migrations_have_the_same_methods():
    ours, theirs = public(emcache.sync.Migration), public(emcache.Migration)
    assert ours.keys() == theirs.keys()
    for name, method in theirs.items():
        assert inspect.signature(ours[name]).parameters == inspect.signature(method).parameters
        assert ours[name].__doc__ == method.__doc__


def test_the_package_has_the_same_names():
    own = {"ClusterEvents", "Client", "Cache", "Migration", "cached", "create_client", "from_url"}
    assert set(emcache.sync.__all__) == own
    assert own <= set(emcache.__all__)


def test_the_documentation_is_the_same_and_does_not_await():
    for name, method in public(emcache.sync.Client).items():
        assert method.__doc__, name
        assert "await" not in method.__doc__, name
    unchanged = [
        name for name in public(emcache.Client) if name not in ("close", "metrics", "node_for")
    ]
    different = [
        name
        for name in unchanged
        if getattr(emcache.sync.Client, name).__doc__ != getattr(emcache.Client, name).__doc__
    ]
    assert different == ["add_many", "meta_get_many", "set_many", "touch_many"][1:3]


def test_importing_the_package_does_not_import_it():
    program = "import sys, emcache; sys.exit('emcache.sync' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program]).returncode == 0
