"""One client, cache and function, shared by the Flask application and the Celery workers."""

import os
import time

from emcache import sync

# At import time: Flask under gunicorn and Celery fork later, and the client works in each child.
client = sync.create_client(os.environ.get("EMCACHE_SERVERS", "127.0.0.1:11211"), timeout=0.5)
# "hash": the month comes from a URL, and may be anything.
cache = sync.Cache(client, prefix="reports:", keys="hash")


@sync.cached(cache, key="month:{month}", ttl=3600, stale_for=86400)
def report(month: str) -> dict[str, object]:
    time.sleep(0.1)  # an aggregation over all orders of the month
    return {"month": month, "orders": 1234, "computed_by": os.getpid()}
