# Written by tools/make_sync.py from emcache/_url.py.
"""``from_url`` of the synchronous client."""

from typing import Any

from .._url import _read
from ._client import Client
from ._create import create_client


def from_url(url: str, **options: Any) -> Client:
    """Create a client from a URL; otherwise like :func:`create_client`.

    ``memcached://user:password@cache-1:11211,cache-2/?timeout=0.5`` is a URL with all parts. The
    scheme ``memcacheds`` connects with TLS, and so does ``?tls=true``. ``memcached:///run/m.sock``
    is a unix socket. Percent-encode special characters in the user, the password and the options.

    Args:
        url: the URL. Its query has options of :func:`create_client` by name: numbers, texts,
            ``true`` and ``false``. ``tls`` is another name for ``ssl``. ``weights`` and ``names``
            are texts such as ``a:11211=2,b:11211=1``.
        options: options of :func:`create_client`, which replace those of the URL.

    Raises:
        ValueError: not such a URL. The message never contains the user and the password.
        TypeError: an unknown option, or an argument of a wrong type.
    """
    allowed = options.pop("allow_in_event_loop", False)
    found = _read(url, options)
    # Tracebacks show local variables, so the password must not be in any.
    del url, options
    if isinstance(found, Exception):
        raise found
    return create_client(found.nodes, allow_in_event_loop=allowed, **found.options)
