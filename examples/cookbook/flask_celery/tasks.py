"""The Celery workers.

Run it: CELERY_BROKER=redis://... celery -A tasks worker --pool prefork --beat
"""

import json
import os
from typing import Any

from celery import Celery

import emcache
from reports import cache, report

queue = Celery("tasks", broker=os.environ.get("CELERY_BROKER", "redis://127.0.0.1"))
queue.conf.broker_transport_options = json.loads(os.environ.get("CELERY_BROKER_OPTIONS", "{}"))
queue.conf.beat_schedule = {
    "every-hour": {"task": "tasks.rebuild", "schedule": 3600, "args": ["2026-11"]}
}


@queue.task(bind=True, max_retries=5, ignore_result=True)
def rebuild(self: Any, month: str) -> None:
    """Compute a report and replace it, in one worker at a time."""
    try:
        with cache.lock(f"rebuild:{month}", ttl=60, wait=0):
            report.refresh(month)
    except emcache.LockTimeoutError:
        return  # another worker is computing it
    except emcache.EmcacheError as error:
        raise self.retry(exc=error, countdown=2**self.request.retries) from error
