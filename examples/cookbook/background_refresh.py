"""Keep expensive values fresh, so that no request ever waits for them.

Two ways, in one worker: `refresh=` for values that requests ask for, and a loop with a lock for
values that must be there before the first request.

Run it, in several terminals: EMCACHE_SERVERS=127.0.0.1:11211 python background_refresh.py
"""

import asyncio
import contextlib
import logging
import os
import signal
import sys
from typing import Any

import emcache
from emcache import Cache, cached

EVERY = int(os.environ.get("REFRESH_EVERY", "30"))

logger = logging.getLogger("shop.refresh")
cache: Cache[Any] | None = None


@cached(lambda: cache, key="rate:{currency}", ttl=60, refresh=20, stale_for=3600, jitter=0.1)
async def exchange_rate(currency: str) -> float:
    """Return a rate; in the last 20 seconds of its ttl, one process replaces it."""
    await asyncio.sleep(0.05)  # another service
    return {"EUR": 1.08, "GBP": 1.27}[currency]


@cached(lambda: cache, key="best-sellers", ttl=3600, stale_for=86400)
async def best_sellers() -> list[str]:
    await asyncio.sleep(0.05)  # an aggregation over all orders
    print("computed by", os.getpid(), flush=True)
    return ["tea", "coffee"]


async def keep_fresh(current: Cache[Any]) -> None:
    """Compute the best sellers every EVERY seconds, in one of all processes."""
    while True:
        # The lock is not released, so it also says that this round is done.
        lock = current.lock("refresh:best-sellers", ttl=max(2, EVERY), wait=0)
        try:
            if await lock.acquire():
                await best_sellers.refresh()
        except emcache.EmcacheError:
            logger.warning("memcached is not available; the next round is in %s s", EVERY)
        except Exception:
            # Requests get the former value meanwhile: stale_for is a day.
            logger.exception("the best sellers could not be computed")
        await asyncio.sleep(EVERY)


async def serve() -> None:
    """Stand for the requests of a web server."""
    while True:
        rate, best = await exchange_rate("EUR"), await best_sellers()
        print("served", rate, *best, flush=True)
        await asyncio.sleep(0.5)


async def main() -> None:
    global cache
    nodes = os.environ.get("EMCACHE_SERVERS", "127.0.0.1:11211")
    async with emcache.create_client(nodes, timeout=0.5) as client:
        cache = Cache(client, prefix="shop:")
        tasks = [asyncio.create_task(keep_fresh(cache)), asyncio.create_task(serve())]
        # SIGTERM stops the loops; leaving the block closes the client, which gives back its leases.
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, tasks[1].cancel)
        with contextlib.suppress(asyncio.CancelledError):
            await tasks[1]
        tasks[0].cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


if __name__ == "__main__":
    logging.basicConfig(stream=sys.stderr)
    asyncio.run(main())
