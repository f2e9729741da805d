"""The pytest plugin, by a name in this package: ``pytest -p emcache.testing.plugin``.

pytest finds an installed emcache by its entry point ``emcache``, which is the separate module
``_emcache_pytest``. A module of this package would import the client in every run of pytest. You
may load both.
"""

import pytest

import _emcache_pytest


def pytest_addoption(pluginmanager: pytest.PytestPluginManager) -> None:
    """Register the plugin if the entry point does not exist, or is not loaded yet."""
    if not pluginmanager.has_plugin("emcache"):
        pluginmanager.register(_emcache_pytest, "emcache")
