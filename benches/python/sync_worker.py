"""One synchronous client in a process of its own: reads work from stdin, writes results.

    python sync_worker.py CLIENT PORT[,PORT...]

Each line of stdin is ``WORK THREADS COUNT``, each line of stdout a JSON object.
"""

import json
import sys
import threading
import time

VALUE = b"v" * 100
KEYS = [f"bench:{n:04}" for n in range(100)]
PAIRS = {f"bench:{n:04}": VALUE for n in range(1000)}


def emcache(ports):
    import emcache.sync

    addresses = [emcache.MemcachedHostAddress("127.0.0.1", port) for port in ports]
    client = emcache.sync.create_client(addresses, timeout=5.0)
    keys, pairs = [key.encode() for key in KEYS], {k.encode(): v for k, v in PAIRS.items()}
    key = keys[0]
    calls = {
        "get": lambda: client.get(key).value,
        "get_many": lambda: {k: item.value for k, item in client.get_many(keys).items()},
        "set": lambda: client.set(key, VALUE) is None,
        "set_many": lambda: not client.set_many(pairs).errors,
    }
    return calls, calls


def libmc(ports):
    import libmc

    servers = [f"127.0.0.1:{port}" for port in ports]
    pool = libmc.ClientPool(servers)
    pool.config(libmc.MC_MAX_CLIENTS, 64)
    pool.config(libmc.MC_POLL_TIMEOUT, 5000)

    def pooled(name, *args):
        with pool.client() as client:
            return getattr(client, name)(*args)

    return _mapping_calls(libmc.Client(servers)), {
        "get": lambda: pooled("get", KEYS[0]),
        "set": lambda: pooled("set", KEYS[0], VALUE),
    }


def pylibmc(ports):
    import pylibmc

    servers = [f"127.0.0.1:{port}" for port in ports]
    single = pylibmc.Client(servers, behaviors={"tcp_nodelay": True})
    pool = pylibmc.ThreadMappedPool(single)

    def pooled(name, *args):
        with pool.reserve() as client:
            return getattr(client, name)(*args)

    calls = _mapping_calls(single)
    calls["set_many"] = lambda: not single.set_multi(PAIRS)
    return calls, {
        "get": lambda: pooled("get", KEYS[0]),
        "set": lambda: pooled("set", KEYS[0], VALUE),
    }


def _mapping_calls(client):
    key = KEYS[0]
    return {
        "get": lambda: client.get(key),
        "get_many": lambda: client.get_multi(KEYS),
        "set": lambda: client.set(key, VALUE),
        "set_many": lambda: client.set_multi(PAIRS),
    }


def pymemcache(ports):
    from pymemcache import HashClient, PooledClient

    options = {"no_delay": True, "default_noreply": False}
    if len(ports) == 1:
        client = PooledClient(("127.0.0.1", ports[0]), **options)
    else:
        client = HashClient([("127.0.0.1", port) for port in ports], use_pooling=True, **options)
    key = KEYS[0]
    calls = {
        "get": lambda: client.get(key),
        "get_many": lambda: client.get_many(KEYS),
        "set": lambda: client.set(key, VALUE),
        "set_many": lambda: not client.set_many(PAIRS),
    }
    return calls, calls


def python_memcached(ports):
    import memcache

    calls = _mapping_calls(memcache.Client([f"127.0.0.1:{port}" for port in ports]))
    calls["set_many"] = lambda call=calls["set_many"]: not call()
    # Its connections are thread-local.
    return calls, calls


CLIENTS = {
    "emcache": emcache,
    "libmc": libmc,
    "pylibmc": pylibmc,
    "pymemcache": pymemcache,
    "python-memcached": python_memcached,
}


def is_right(work, reply):
    if work == "get":
        return reply == VALUE
    if work == "get_many":
        return len(reply) == len(KEYS) and all(value == VALUE for value in reply.values())
    return bool(reply)


def measure(call, work, threads, count):
    took, wrong = [[] for _ in range(threads)], []
    start = threading.Barrier(threads)

    def run(into):
        clock = time.perf_counter
        start.wait()
        for _ in range(count):
            began = clock()
            reply = call()
            into.append(clock() - began)
            if not is_right(work, reply):
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
    name, ports = sys.argv[1], [int(port) for port in sys.argv[2].split(",")]
    single, shared = CLIENTS[name](ports)
    single["set_many"]()
    single["set"]()
    print("ready", flush=True)
    for line in sys.stdin:
        work, threads, count = line.split()
        calls = single if threads == "1" else shared
        print(json.dumps(measure(calls[work], work, int(threads), int(count))), flush=True)


if __name__ == "__main__":
    main()
