"""Real memcached servers and a failing network, for tests only.

pytest provides them as fixtures, see :mod:`emcache.testing.plugin`. The classes also work without
pytest.
"""

from ._fake import FakeServer
from ._faults import Faults, Link
from ._process import MemcachedNotFoundError, MemcachedStartError
from ._proxy import FaultProxy
from ._server import MemcachedServer
from ._tls import CertificateAuthority, Identity, Tls

__all__ = [
    "CertificateAuthority",
    "FakeServer",
    "FaultProxy",
    "Faults",
    "Identity",
    "Link",
    "MemcachedNotFoundError",
    "MemcachedServer",
    "MemcachedStartError",
    "Tls",
]
