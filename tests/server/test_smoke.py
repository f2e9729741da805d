import subprocess
import sys

import pytest


async def test_set_and_get(client, key):
    await client.set(key, b"value")
    item = await client.get(key)
    assert item is not None
    assert item.value == b"value"


@pytest.mark.driver_independent
def test_what_importing_it_loads():
    """A service waits for it at each start: what only some need is loaded when they do."""
    program = (
        "import sys, asyncio; before = set(sys.modules); import emcache; "
        "print(*(m for m in sys.modules if 'emcache' in m or (m not in before and m in "
        "('dataclasses', 'inspect', 're'))))"
    )
    loaded = subprocess.check_output([sys.executable, "-c", program], text=True).split()
    modules = {
        *("_address", "_checks", "_client", "_cluster", "_create", "_emcache", "_errors", "_hints"),
        *("_item", "_lazy", "_lifecycle", "_meta_commands", "_options", "_snapshots", "_types"),
        *(
            "_memcached",
            "_memcached.addresses",
            "_routing",
            "_values",
            "_pool_metrics",
            "default_values",
        ),
    }
    assert set(loaded) == {"emcache"} | {f"emcache.{m}" for m in modules}
