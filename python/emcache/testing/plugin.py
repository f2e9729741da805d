"""The pytest plugin by a name of this package: ``pytest -p emcache.testing.plugin``.

pytest itself finds an installed emcache by its entry point ``emcache``. That is a module of its
own, ``_emcache_pytest``: to import anything of this package imports the client, in every run of
pytest wherever emcache is installed. To name this one too does no harm.
"""

import pytest

import _emcache_pytest


def pytest_addoption(pluginmanager: pytest.PytestPluginManager) -> None:
    """Stand in for the entry point where there is none, or before it is loaded."""
    if not pluginmanager.has_plugin("emcache"):
        pluginmanager.register(_emcache_pytest, "emcache")
