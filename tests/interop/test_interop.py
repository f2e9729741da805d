"""The clients of other languages: those that are installed, and what all of them stored."""

import asyncio
import json
import re

import pytest

import emcache
from interop.exchange import KEYS, exchange, fault_of
from interop.neighbours import is_installed, neighbours
from interop.recording import RECORDED

pytestmark = pytest.mark.driver_independent
NEIGHBOURS = {each.name: each for each in neighbours()}
ITEMS = json.loads(RECORDED.read_text())
ITEMS.pop("about")


@pytest.mark.parametrize("name", NEIGHBOURS)
def test_both_read_what_the_other_writes(name, cluster):
    neighbour = NEIGHBOURS[name]
    if not is_installed(neighbour):
        pytest.skip(f"{neighbour.package} is not installed: make interop installs it")
    result = exchange(neighbour, cluster)
    assert result.faults == []
    assert (result.keys, result.read) == (len(KEYS), len(neighbour.theirs))
    assert result.written == len(neighbour.ours)


@pytest.mark.parametrize("name", ITEMS)
def test_recorded_values(name, server):
    """PHP, Ruby, Perl, Java and Go are not on every machine; what they stored is."""

    async def read():
        neighbour = NEIGHBOURS[name]
        async with emcache.create_client([server.address]) as client:
            prefix = re.sub(r"\W+", "-", name) + ":"
            cache = emcache.Cache(client, serializer=neighbour.preset(), prefix=prefix)
            for value, (flags, data) in ITEMS[name]["items"].items():
                await client.set(cache.wire_key(value), bytes.fromhex(data), flags=flags)
                assert await fault_of(cache, value, neighbour.theirs[value]) is None, value

    asyncio.run(read())
