"""Times of Python's wherever an exptime is: what the server makes of them."""

import time
from datetime import UTC, date, datetime, timedelta, timezone, tzinfo

import pytest

import emcache
from emcache._memcached.times import LAST_SECOND, THIRTY_DAYS, to_exptime

DAY = timedelta(days=1)
AFTER_THE_END = datetime(2040, 1, 1, tzinfo=UTC)

# Seconds that a point in time may seem off: memcached's own clock ticks once a
# second, and a busy machine lets both that tick and this test wait for their turn.
LATE = 10


def ttl(server, key) -> int | None:
    """Seconds that the server says are left; -1: for ever; None: it is gone."""
    words = server.command(b"mg %s t\r\n" % key).split()
    return None if words[0] == b"EN" else int(words[1].removeprefix(b"t"))


def now() -> datetime:
    return datetime.now(UTC)


@pytest.mark.driver_independent
class TestToExptime:
    @pytest.mark.parametrize(
        ("duration", "seconds"),
        [
            (timedelta(seconds=1), 1),
            (timedelta(milliseconds=1), 1),
            (timedelta(microseconds=1), 1),
            (timedelta(seconds=59, microseconds=1), 60),
            (timedelta(minutes=5), 300),
            (timedelta(days=30), THIRTY_DAYS),
            (timedelta(0), -1),
            (timedelta(microseconds=-1), -1),
            (timedelta.min, -1),
            (timedelta.max, LAST_SECOND),
            (AFTER_THE_END, LAST_SECOND),
            (datetime.max.replace(tzinfo=UTC), LAST_SECOND),
            (datetime(2038, 1, 19, 3, 14, 7, tzinfo=UTC), LAST_SECOND),
            (datetime(2000, 1, 1, tzinfo=UTC), -1),
            (datetime(1960, 1, 1, tzinfo=UTC), -1),
            (datetime.min.replace(tzinfo=UTC), -1),
            (datetime(2037, 1, 1, tzinfo=UTC), 2114380800),
            (datetime(2037, 1, 1, microsecond=1, tzinfo=UTC), 2114380801),
            (datetime(2037, 1, 1, 1, tzinfo=timezone(timedelta(hours=1))), 2114380800),
            (0, 0),
            (-(2**31), -(2**31)),
        ],
    )
    def test_what_is_sent(self, duration, seconds):
        assert to_exptime(duration) == seconds

    def test_over_thirty_days_is_a_point_in_time(self):
        before = time.time()
        sent = to_exptime(timedelta(days=30, microseconds=1))
        assert before + THIRTY_DAYS <= sent <= time.time() + THIRTY_DAYS + 1

    def test_up_to_thirty_days_away_is_a_duration(self, monkeypatch):
        """By a clock that stands still, so that the bound is exact."""
        monkeypatch.setattr("time.time", lambda: 1_800_000_000.123456)
        here = datetime(2027, 1, 15, 8, 0, 0, 123456, tzinfo=UTC)
        for after, sent in [
            (timedelta(microseconds=1), 1),
            (timedelta(seconds=1), 1),
            (timedelta(minutes=5), 300),
            (timedelta(minutes=5, microseconds=1), 301),
            (timedelta(days=30), THIRTY_DAYS),
            (timedelta(days=30, microseconds=1), 1_800_000_001 + THIRTY_DAYS),
            (timedelta(days=400), 1_800_000_001 + 400 * 86400),
            (timedelta(0), -1),
            (timedelta(microseconds=-1), -1),
        ]:
            assert to_exptime(here + after) == sent, after
            assert to_exptime((here + after).astimezone(timezone(timedelta(hours=9)))) == sent
            # A duration and the moment when it ends are the same time.
            assert to_exptime(after) == sent, after

    def test_not_in_the_future_is_at_once(self):
        assert to_exptime(now()) in (-1, 1)
        assert to_exptime(now() - timedelta(seconds=1)) == -1

    @pytest.mark.parametrize("naive", [datetime(2037, 1, 1), datetime.now()])
    def test_a_naive_datetime_is_refused(self, naive):
        with pytest.raises(ValueError, match="without a time zone"):
            to_exptime(naive)

    @pytest.mark.parametrize("other", [True, 1.5, "60", None, date(2037, 1, 1), time.gmtime(), b""])
    def test_other_types_are_refused(self, other):
        with pytest.raises(TypeError, match="expected int, timedelta or datetime"):
            to_exptime(other)


CALLS = {
    "set": lambda c, key, exptime: c.set(key, b"1", exptime=exptime),
    "add": lambda c, key, exptime: c.add(key + b"-new", b"1", exptime=exptime),
    "replace": lambda c, key, exptime: c.replace(key, b"1", exptime=exptime),
    "touch": lambda c, key, exptime: c.touch(key, exptime),
    "gat": lambda c, key, exptime: c.gat(exptime, key),
    "gats": lambda c, key, exptime: c.gats(exptime, key),
    "gat_many": lambda c, key, exptime: c.gat_many(exptime, [key]),
    "gats_many": lambda c, key, exptime: c.gats_many(exptime, [key]),
    "partial": lambda c, key, exptime: c.gat_many(exptime, [key], on_error="partial"),
    "set_many": lambda c, key, exptime: c.set_many({key: b"1"}, exptime=exptime),
    "add_many": lambda c, key, exptime: c.add_many({key + b"-new": b"1"}, exptime=exptime),
    "touch_many": lambda c, key, exptime: c.touch_many([key], exptime),
    "increment": lambda c, key, exptime: c.increment(key + b"-new", 1, initial=1, exptime=exptime),
    "decrement": lambda c, key, exptime: c.decrement(key + b"-new", 1, initial=1, exptime=exptime),
}
NEW = {"add", "add_many", "increment", "decrement"}


@pytest.mark.parametrize("name", CALLS)
class TestEveryCommand:
    async def test_takes_a_duration_and_a_moment(self, server, client, key, name):
        for exptime, least, most in [
            (timedelta(minutes=5), 300 - LATE, 300),
            (timedelta(days=60), 60 * 86400 - LATE, 60 * 86400 + LATE),
            (now() + timedelta(days=2), 2 * 86400 - LATE, 2 * 86400 + LATE),
            (timedelta(days=365_000), LAST_SECOND - time.time() - LATE, LAST_SECOND),
            (AFTER_THE_END, LAST_SECOND - time.time() - LATE, LAST_SECOND),
            (300, 300 - LATE, 300),
        ]:
            await client.delete_many([key, key + b"-new"])
            await client.set(key, b"1")
            await CALLS[name](client, key, exptime)
            left = ttl(server, key + b"-new" if name in NEW else key)
            assert left is not None
            assert least <= left <= most

    async def test_expires_at_once(self, server, client, key, name):
        for exptime in (timedelta(0), -DAY, now() - DAY, -1):
            await client.delete_many([key, key + b"-new"])
            await client.set(key, b"1")
            await CALLS[name](client, key, exptime)
            assert ttl(server, key + b"-new" if name in NEW else key) is None

    async def test_refuses_what_is_no_time(self, server, client, key, name):
        before = server.stats()["cmd_set"], server.stats()["cmd_touch"]
        for bad, error in [
            (datetime(2037, 1, 1), ValueError),
            (2**31, ValueError),
            (1.5, TypeError),
            (True, TypeError),
            (None, TypeError),
        ]:
            with pytest.raises(error):
                await CALLS[name](client, key, bad)
        await client.version(server.address)
        assert (server.stats()["cmd_set"], server.stats()["cmd_touch"]) == before


async def test_less_than_a_second_is_not_for_ever(server, client, key):
    await client.set(key, b"1", exptime=timedelta(milliseconds=100))
    assert ttl(server, key) in (None, 0, 1)


async def test_a_time_zone_of_ones_own(client, key):
    """What it does is its user's code: the call ends cleanly whatever that is."""

    class Broken(tzinfo):
        def utcoffset(self, when):
            raise ZeroDivisionError

    moment = datetime(2037, 1, 1, tzinfo=Broken())
    with pytest.raises(ZeroDivisionError):
        await client.set(key, b"1", exptime=moment)
    assert await client.get(key) is None


async def test_checked_out_connections_take_them_too(server, key):
    pool = emcache.ConnectionPool(server.address)
    try:
        async with pool.create_connection_context() as connection:
            minutes = timedelta(minutes=5)
            await connection.storage_command(b"set", key, b"1", 0, minutes)
            assert ttl(server, key) in range(300 - LATE, 301)
            assert await connection.touch_command(key, now() + 2 * DAY) == b"TOUCHED"
            assert ttl(server, key) in range(2 * 86400 - LATE, 2 * 86400 + LATE + 1)
            await connection.get_and_touch_command(b"gat", minutes, [key])
            assert ttl(server, key) in range(300 - LATE, 301)
            with pytest.raises(ValueError, match="time zone"):
                await connection.touch_command(key, datetime(2037, 1, 1))
            assert await connection.touch_command(key, timedelta(0)) == b"TOUCHED"
            assert ttl(server, key) is None
    finally:
        await pool.close()
