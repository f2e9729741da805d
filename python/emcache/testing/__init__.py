"""Real memcached servers and a failing network for tests; nothing here is for production.

pytest has it as fixtures, see :mod:`emcache.testing.plugin`; the classes do without pytest too.
"""

from ._faults import Faults, Link
from ._process import MemcachedNotFoundError, MemcachedStartError
from ._proxy import FaultProxy
from ._server import MemcachedServer
from ._tls import CertificateAuthority, Identity, Tls

__all__ = [
    "CertificateAuthority",
    "FaultProxy",
    "Faults",
    "Identity",
    "Link",
    "MemcachedNotFoundError",
    "MemcachedServer",
    "MemcachedStartError",
    "Tls",
]
