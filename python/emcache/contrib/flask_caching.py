"""A backend for Flask-Caching: ``pip install 'emcache[flask]'``.

::

    app.config.from_mapping(
        CACHE_TYPE="emcache.contrib.flask_caching.EmcacheCache",
        CACHE_MEMCACHED_SERVERS=["10.0.0.1:11211", "10.0.0.2:11211"],
        CACHE_OPTIONS={"timeout": 0.5},  # options of emcache.sync.create_client
    )
    cache = Cache(app)
"""

from typing import Any

try:
    from flask import Flask
    from flask_caching.backends.base import BaseCache
except ImportError as error:
    raise ImportError(
        "emcache.contrib.flask_caching needs Flask-Caching: pip install 'emcache[flask]'"
    ) from error

from .cachelib import EmcacheCache as CachelibCache


class EmcacheCache(CachelibCache, BaseCache):
    """:class:`emcache.contrib.cachelib.EmcacheCache` with the settings of Flask-Caching.

    ``CACHE_MEMCACHED_SERVERS`` has the nodes, and ``CACHE_MEMCACHED_USERNAME`` and
    ``CACHE_MEMCACHED_PASSWORD`` the login. ``CACHE_OPTIONS`` accepts ``ignore_errors`` and the
    options of :func:`emcache.sync.create_client`.
    """

    @classmethod
    def factory(
        cls,
        app: Flask,  # noqa: ARG003 - what Flask-Caching passes
        config: dict[str, Any],
        args: list[Any],
        kwargs: dict[str, Any],
    ) -> "EmcacheCache":
        """Create the cache of an application."""
        options = {"key_prefix": config.get("CACHE_KEY_PREFIX"), **kwargs}
        if (username := config.get("CACHE_MEMCACHED_USERNAME")) is not None:
            options.setdefault("username", username)
            options.setdefault("password", config.get("CACHE_MEMCACHED_PASSWORD"))
        servers = config.get("CACHE_MEMCACHED_SERVERS") or "127.0.0.1:11211"
        return cls(servers, *args, **options)
