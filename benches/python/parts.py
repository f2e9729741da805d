"""Measure the cost of the optional parts for a get, off and on, as ratios to the plain client.

See README.md beside this file for the method, and `--help` for what can be chosen.
"""

import argparse
import importlib
import logging
import os
import random
import statistics
import sys

from runs import Run, Runner, about, is_good, summarise, write

from servers import Servers

MODULES = (
    "emcache.cache",
    "emcache.contrib.aiocache",
    "emcache.contrib.django",
    "emcache.contrib.loops",
    "emcache.contrib.opentelemetry",
    "emcache.contrib.prometheus",
    "emcache.testing",
    "opentelemetry.sdk.metrics",
    "opentelemetry.sdk.trace",
    # Imported by the serializers and compressions when they are created.
    "backports.zstd" if sys.version_info < (3, 14) else "compression.zstd",
    "lz4.frame",
    "msgpack",
)


def imported(client):
    for name in MODULES:
        importlib.import_module(name)


def beside(client):
    """Create a Cache with all its options and a cached function, without using them."""
    from emcache import Cache, cached
    from emcache.cache import MsgPack, Zstd

    cache = Cache(client, serializer=MsgPack(), compression=Zstd(), prefix="bench:", keys="hash")

    @cached(cache, ttl=60)
    async def unused(name):
        return name

    return cache, unused


def logged(client):
    logging.basicConfig(level=logging.DEBUG, filename=os.devnull)


def counted(client):
    return client.metrics()


def registered(client):
    from prometheus_client import REGISTRY

    from emcache.contrib.prometheus import EmcacheCollector

    REGISTRY.register(EmcacheCollector(client))


def instrumented(client, **providers):
    from emcache.contrib.opentelemetry import EmcacheInstrumentor

    EmcacheInstrumentor().instrument(**providers)


def uninstrumented(client):
    from emcache.contrib.opentelemetry import EmcacheInstrumentor

    traced(client)
    EmcacheInstrumentor.instrument_client(client)
    EmcacheInstrumentor.uninstrument_client(client)
    EmcacheInstrumentor().uninstrument()


def traced(client, **options):
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import InMemoryMetricReader
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult

    class Nowhere(SpanExporter):
        def export(self, spans):
            return SpanExportResult.SUCCESS

    tracers = TracerProvider(**options)
    tracers.add_span_processor(BatchSpanProcessor(Nowhere()))
    meters = MeterProvider([InMemoryMetricReader()])
    instrumented(client, tracer_provider=tracers, meter_provider=meters)


def dropped(client):
    from opentelemetry.sdk.trace.sampling import ALWAYS_OFF

    traced(client, sampler=ALWAYS_OFF)


AGAIN = "plain client, once more"
OFF = {
    AGAIN: lambda client: None,
    "everything installed and imported": imported,
    "`Cache` and `@cached` made, not used": beside,
    "logging at DEBUG": logged,
    "`client.metrics()` called once": counted,
    "Prometheus collector registered, not scraped": registered,
    "OpenTelemetry instrumented, then uninstrumented": uninstrumented,
}
ON = {
    "OpenTelemetry, no provider": instrumented,
    "OpenTelemetry, the sampler drops": dropped,
    "OpenTelemetry, spans and metrics": traced,
}
PARTS = OFF | ON

FIGURES = {"ops_per_s": ("gets per second", ",.0f"), "cpu_us": ("CPU per get, µs", ".1f")}


def measure(runner, tasks, rounds, seed):
    """The results of each round, by part; "" is the plain client. Each round has its own order."""
    runs = {part: Run("emcache", tasks=tasks, part=part) for part in ("", *PARTS)}
    shuffled = random.Random(seed)
    for _ in range(rounds):
        order = list(runs)
        shuffled.shuffle(order)
        yield {part: runner.once(runs[part]) for part in order}


def ratios(results, part, figure):
    """A part's figure to the plain client's, in each round that went well for both."""
    good = [of for of in results if is_good(of[part]) and is_good(of[""])]
    return sorted(of[part][figure] / of[""][figure] for of in good)


def summary(results, part):
    made = summarise([of[part] for of in results])
    for figure in FIGURES:
        if each := ratios(results, part, figure):
            made[f"{figure}_ratio"] = statistics.median(each)
            made[f"{figure}_ratio_spread"] = [each[0], each[-1]]
    return made


def is_noise(row, part, figure):
    """Whether a part is within the spread of the plain client against itself."""
    low, high = row[AGAIN].get(f"{figure}_ratio_spread", (1, 1))
    return min(low, 1) <= row[part][f"{figure}_ratio"] <= max(high, 1)


def cell(row, part, figure):
    if f"{figure}_ratio" not in row[part]:
        return f"failed: {row[part].get('error', 'no round without a failure')}"
    low, high = row[part][f"{figure}_ratio_spread"]
    text = f"{row[part][f'{figure}_ratio']:.2f}"
    mark = "" if part == AGAIN or is_noise(row, part, figure) else "**"
    return f"{mark}{text}{mark} ({low:.2f} to {high:.2f})"


def markdown(rows):
    heads = " | ".join(f"{tasks} task{'s' * (tasks > 1)}" for tasks in rows)
    for figure, (name, form) in FIGURES.items():
        plain = " | ".join(format(row[""][figure], form) for row in rows.values())
        yield f"| {name} | {heads} |"
        yield "|---" * (1 + len(rows)) + "|"
        yield f"| plain client | {plain} |"
        for part in PARTS:
            cells = " | ".join(cell(row, part, figure) for row in rows.values())
            yield f"| {part} | {cells} |"
        yield ""


def arguments():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tasks", default="1,32,256")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=0.3, help="of each run")
    parser.add_argument("--server-threads", type=int, default=2)
    parser.add_argument("--json", default="", help="write the results here")
    return parser.parse_args()


def main():
    args = arguments()
    rows = {}
    load = os.getloadavg()[0]
    with Servers(args.server_threads) as servers:
        runner = Runner(servers, "", args.seconds)
        for tasks in map(int, args.tasks.split(",")):
            results = list(measure(runner, tasks, args.rounds, seed=tasks))
            rows[tasks] = {part: summary(results, part) for part in ("", *PARTS)}
            if "error" in rows[tasks][""]:
                sys.exit(f"the plain client failed: {rows[tasks]['']['error']}")
            print(f"{tasks} tasks done", file=sys.stderr, flush=True)
    made = about(args.rounds, args.seconds, args.server_threads) | {"load_before": load}
    print(f"{made['when']}, commit {made['commit']}, load {load:.1f} before, {args.rounds} rounds")
    print("Ratios to the plain client of the same round: median (lowest to highest).")
    print("Bold: outside of what the plain client was against itself.\n")
    print("\n".join(markdown(rows)))
    if args.json:
        write(args.json, {"about": made, "rows": rows})


if __name__ == "__main__":
    main()
