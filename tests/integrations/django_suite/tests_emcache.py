"""Django's own tests of cache backends, on ours: by `make test-django` beside Django's files."""

from asgiref.sync import async_to_sync
from cache.tests import (
    BaseMemcachedTests,
    caches_setting_for_tests,
    configured_caches,
    memcached_excluded_caches,
)
from django.test import TestCase, override_settings

from emcache import ArithmeticCommandError
from emcache.contrib.django import EmcacheCache


class AsyncEmcacheCache(EmcacheCache):
    """Each call by the async method, in an event loop of its own."""


def _by_async(name):
    def call(self, *args, **kwargs):
        return async_to_sync(getattr(self, f"a{name}"))(*args, **kwargs)

    return call


# The others are Django's own, of these.
_NAMES = ["add", "get", "set", "touch", "delete", "incr", "clear", "get_or_set"]
_NAMES += ["get_many", "set_many", "delete_many"]
for _name in _NAMES:
    setattr(AsyncEmcacheCache, _name, _by_async(_name))


class Tests(BaseMemcachedTests):
    incr_decr_type_error = ArithmeticCommandError

    def test_location_multiple_servers(self):
        self.skipTest("`_servers` are addresses: tests/integrations has a test of them")

    def test_close(self):
        self.skipTest("about `disconnect_all` of other clients; ours stays connected")

    def test_set_many_returns_failing_keys(self):
        self.skipTest("about `set_multi` of other clients: tests/integrations has a test")


def _settings(backend):
    return override_settings(
        CACHES=caches_setting_for_tests(
            base={
                "BACKEND": backend,
                "LOCATION": configured_caches[EmcacheCache.__module__ + ".EmcacheCache"][
                    "LOCATION"
                ],
            },
            exclude=memcached_excluded_caches,
        )
    )


@_settings("emcache.contrib.django.EmcacheCache")
class EmcacheCacheTests(Tests, TestCase):
    base_params = configured_caches["emcache.contrib.django.EmcacheCache"]


@_settings("cache.tests_emcache.AsyncEmcacheCache")
class AsyncEmcacheCacheTests(Tests, TestCase):
    base_params = {
        **configured_caches["emcache.contrib.django.EmcacheCache"],
        "BACKEND": "cache.tests_emcache.AsyncEmcacheCache",
    }

    def test_get_or_set_racing(self):
        self.skipTest("patches `add`, which is not called here")
