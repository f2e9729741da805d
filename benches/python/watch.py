"""Measurements within a process: memory, wake-ups, and how long callbacks hold the loop."""

import asyncio
import time
from array import array
from pathlib import Path

STATUS = Path("/proc/self/status")


def status(name, path=STATUS):
    """A number of /proc/.../status; sizes are in KiB."""
    for line in path.read_text().splitlines():
        if line.startswith(name + ":"):
            return int(line.split()[1])
    raise KeyError(name)


class Memory:
    """The highest resident size from here on, beyond the size that there was."""

    def __init__(self):
        Path("/proc/self/clear_refs").write_text("5")  # the peak is counted anew
        self.before = status("VmRSS")

    def result(self):
        return {"peak_kib": status("VmHWM") - self.before}


def threads():
    return list(Path("/proc/self/task").iterdir())


def switches():
    """Count how often the threads of this process slept, and so were woken."""
    return sum(status("voluntary_ctxt_switches", thread / "status") for thread in threads())


async def idle(settle, seconds):
    """Wake-ups of a process with an idle client; the end of the sleep is one."""
    await asyncio.sleep(settle)
    before, cpu = switches(), time.process_time()
    await asyncio.sleep(seconds)
    used = (time.process_time() - cpu) * 1e3
    return {
        "wakeups": switches() - before,
        "cpu_ms": used,
        "threads": len(threads()),
    }


class Turns:
    """How long each callback of asyncio's own loop holds it: all, and those of the client."""

    def __init__(self):
        self.all, self.client, self.client_cpu = array("q"), array("q"), array("q")
        self.original = asyncio.events.Handle._run
        asyncio.events.Handle._run = lambda handle: self.run(handle)

    def clear(self):
        for held in (self.all, self.client, self.client_cpu):
            del held[:]

    def run(self, handle):
        owner = type(getattr(handle._callback, "__self__", None))
        is_client = owner.__module__.startswith("emcache")
        cpu = time.thread_time_ns() if is_client else 0
        started = time.perf_counter_ns()
        self.original(handle)
        held = time.perf_counter_ns() - started
        self.all.append(held)
        if is_client:
            self.client_cpu.append(time.thread_time_ns() - cpu)
            self.client.append(held)

    def result(self):
        asyncio.events.Handle._run = self.original
        result = {}
        kinds = [("callback", self.all), ("turn", self.client), ("turn_cpu", self.client_cpu)]
        for name, held in kinds:
            ordered = sorted(held) or [0]
            result[f"{name}_p99_us"] = ordered[len(ordered) * 99 // 100] / 1e3
            result[f"{name}_max_us"] = ordered[-1] / 1e3
            result[f"{name}s"] = len(held)
        return result
