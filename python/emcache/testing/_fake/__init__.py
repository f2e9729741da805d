"""A memcached in this process; see :class:`FakeServer`.

`_store` has the items, `_text` and `_meta` the commands of the two protocols, `_session` cuts the
bytes of a connection into commands, and `_server` has the socket and the failures.
"""

from ._server import FakeServer

__all__ = ["FakeServer"]
