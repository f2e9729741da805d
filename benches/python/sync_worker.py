"""One synchronous client in a process of its own: reads work from stdin, writes results.

    python sync_worker.py CLIENT PORT[,PORT...] [CA]

Each line of stdin is ``WORK THREADS COUNT``, each line of stdout a JSON object. With ``CA``, a file
of certificates, the servers speak TLS.
"""

import json
import sys
import threading
import time

from sync_clients import CLIENTS, KEYS, VALUES, versions


def is_right(work, at, reply):
    """Every value is a function of its key, so a foreign one is seen."""
    if work == "get":
        return reply == VALUES[at]
    if work == "get_many":
        return list(reply.values()) == VALUES if len(reply) == len(KEYS) else False
    return reply is True


def measure(call, work, threads, count):
    took, wrong = [[] for _ in range(threads)], []
    start = threading.Barrier(threads)

    def run(into):
        clock, keys = time.perf_counter, len(KEYS)
        start.wait()
        for number in range(count):
            at = number % keys
            began = clock()
            try:
                reply = call(at)
            except Exception as error:
                reply = error
            into.append(clock() - began)
            if not is_right(work, at, reply):
                wrong.append(reply)

    workers = [threading.Thread(target=run, args=(into,)) for into in took[1:]]
    for worker in workers:
        worker.start()
    began, cpu = time.perf_counter(), time.process_time()
    run(took[0])
    for worker in workers:
        worker.join()
    seconds, cpu = time.perf_counter() - began, time.process_time() - cpu
    calls = sorted(seconds for each in took for seconds in each)
    return {
        "p50": calls[len(calls) // 2] * 1e6,
        "cpu": cpu / len(calls) * 1e6,
        "rate": len(calls) / seconds,
        "wrong": len(wrong),
    }


def main():
    name, ports, ca = sys.argv[1], [int(port) for port in sys.argv[2].split(",")], sys.argv[3:]
    single, shared = CLIENTS[name](ports, *ca)
    if not all(single["set"](at) for at in range(len(KEYS))):
        sys.exit(f"{name}: not all values were stored")
    print(json.dumps(versions(name)), flush=True)
    for line in sys.stdin:
        work, threads, count = line.split()
        calls = single if threads == "1" else shared
        print(json.dumps(measure(calls[work], work, int(threads), int(count))), flush=True)


if __name__ == "__main__":
    main()
