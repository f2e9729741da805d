"""That the service of user_code runs, besides what the type checkers say of it."""

import sys
from pathlib import Path

from emcache.testing import MemcachedServer

sys.path.insert(0, str(Path(__file__).parent))

from user_code import service


async def test_service() -> None:
    with MemcachedServer() as server:
        await service.main([server.address])
