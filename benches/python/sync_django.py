"""One Django cache backend in a process of its own: prints medians of `get`, `set` and `get_many`.

python sync_django.py BACKEND PORT ROUNDS
"""

import statistics
import sys
import time

from django.conf import settings
from django.core.cache import cache


def main():
    backend, port, rounds = sys.argv[1], sys.argv[2], int(sys.argv[3])
    settings.configure(CACHES={"default": {"BACKEND": backend, "LOCATION": [f"127.0.0.1:{port}"]}})
    value, many = "v" * 100, {f"many:{n}": "v" * 100 for n in range(100)}
    cache.set("key", value)
    cache.set_many(many)
    calls = {
        "get": (lambda: cache.get("key") == value, 2000),
        "set": (lambda: cache.set("key", value) is None, 2000),
        "get_many": (lambda: cache.get_many(many) == many, 100),
    }
    print("ready", flush=True)
    for _ in range(rounds):
        sys.stdin.readline()
        medians = {}
        for name, (call, count) in calls.items():
            took = []
            for _ in range(count):
                began = time.perf_counter()
                is_right = call()
                took.append(time.perf_counter() - began)
                if not is_right:
                    sys.exit(f"{backend}: a wrong reply of {name}")
            medians[name] = statistics.median(took) * 1e6
        print(medians, flush=True)


if __name__ == "__main__":
    main()
