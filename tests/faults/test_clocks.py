"""Time is monotonic, and the core's own: no clock that jumps ends a call."""

import asyncio
import re
import time
from pathlib import Path

import pytest

import emcache
from support.calls import client_of
from support.faults import Faults, Link, fault_proxy, fill
from support.oracle import value_of

ROOT = Path(__file__).parent.parent.parent
WALL_CLOCKS = re.compile(
    r"SystemTime|UNIX_EPOCH|CLOCK_REALTIME|chrono::|OffsetDateTime"
    r"|\btime\.time(_ns)?\b|from time import .*\btime\b"
    r"|datetime\.(now|today)|utcnow|\.gmtime|\.localtime"
)
PACKAGE = ROOT / "python" / "emcache"
DATED = {
    # Certificates are valid by the calendar.
    PACKAGE / "testing" / "_tls.py",
    # The clock of a server.
    PACKAGE / "testing" / "_fake" / "_store.py",
    # A time of expiry is the server's Unix time.
    ROOT / "src" / "client" / "clock.rs",
    PACKAGE / "_memcached" / "times.py",
    PACKAGE / "cache" / "_ttl.py",
    # Hosts that share values and limits agree on their times.
    PACKAGE / "cache" / "_envelope.py",
    PACKAGE / "cache" / "_rate_limits.py",
    PACKAGE / "contrib" / "_fastapi_responses.py",
    # A snapshot says when it was made.
    PACKAGE / "_snapshots.py",
    PACKAGE / "sync" / "_snapshots.py",
    PACKAGE / "metrics.py",
    PACKAGE / "contrib" / "prometheus.py",
    # What people read.
    *(PACKAGE / "cli").rglob("*.py"),
}
SOURCES = sorted(
    {
        *(path for path in (ROOT / "src").rglob("*.rs") if path.name != "tests.rs"),
        *(ROOT / "python").rglob("*.py"),
    }
    - DATED
)


def test_the_pattern_finds_wall_clocks():
    for line in ("SystemTime::now()", "time.time()", "datetime.now()", "from time import time"):
        assert WALL_CLOCKS.search(line), line
    for line in ("Instant::now()", "time.monotonic()", "loop.time()", "asyncio.timeout(1)"):
        assert not WALL_CLOCKS.search(line), line


def test_no_source_asks_a_wall_clock():
    assert len(SOURCES) > 30
    found = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
        for path in SOURCES
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if WALL_CLOCKS.search(line)
    ]
    assert found == []


class JumpingLoop(asyncio.SelectorEventLoop):
    """A loop whose clock can be put forward: all its timers are early then."""

    ahead = 0.0

    def time(self):
        return super().time() + self.ahead


@pytest.fixture
def jumping():
    with asyncio.Runner(loop_factory=JumpingLoop) as runner:
        yield runner


def test_a_loop_whose_clock_jumps_ends_no_call_early(server, jumping):
    async def main():
        loop = asyncio.get_running_loop()
        answers = Faults(stall_after=0)
        fill(server, [b"clock"])
        with fault_proxy(server, lambda _: Link(answers=answers)) as proxy:
            async with client_of(proxy, timeout=0.5) as client:
                started = time.monotonic()
                late = asyncio.create_task(client.get(b"clock"))
                for _ in range(3):
                    await asyncio.sleep(0)
                    loop.ahead += 3600
                    # In real time: the loop's own sleep would end at once after a jump.
                    time.sleep(0.05)
                with pytest.raises(emcache.OperationTimeoutError):
                    await late
                assert 0.49 < time.monotonic() - started < 5
                answers.stall_after = None
                answered = asyncio.create_task(client.get(b"clock"))
                await asyncio.sleep(0)
                loop.ahead += 3600
                assert (await answered).value == value_of(b"clock")
                # After the timeout in silence the second call may use another connection.
                assert proxy.accepted <= 2

    jumping.run(main())
