"""memcached's own proxy in front of real memcacheds, where memcached is built with it."""

import contextlib
import functools
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

from emcache.testing._process import find_memcached

from .memcached import Memcached

_CONFIG = """
function mcp_config_pools()
  mcp.backend_connect_timeout(%(timeout)s)
  mcp.backend_read_timeout(%(timeout)s)
  local servers = {}
  for number, port in ipairs({%(ports)s}) do
    servers[number] = mcp.backend('s' .. number, '127.0.0.1', port)
  end
  return mcp.pool(servers)
end

function mcp_config_routes(pool)
  local route = mcp.funcgen_new()
  local handle = route:new_handle(pool)
  route:ready({
    n = "route",
    f = function(context)
      return function(request) return context:enqueue_and_wait(request, handle) end
    end,
  })
  mcp.attach(mcp.CMD_ANY_STORAGE, route)
end
"""

WHY_NOT = "memcached is built without its proxy (Debian 13 and later have it)"


@functools.cache
def has_proxy() -> bool:
    """Whether memcached can be a proxy."""
    told = subprocess.run([find_memcached(), "-h"], capture_output=True, check=True)
    return b"proxy_config" in told.stdout


class MemcachedProxy:
    """A running proxy, and its servers."""

    def __init__(self, running: Memcached, servers: list[Memcached]) -> None:
        self.servers = servers
        self.port = running.port
        self.address = running.address


@contextlib.contextmanager
def memcached_proxy(servers: int = 2, timeout: float = 60) -> Iterator[MemcachedProxy]:
    """Run a proxy and its servers for one test; ``timeout``: seconds that it waits for a server."""
    with contextlib.ExitStack() as stack:
        running = [stack.enter_context(Memcached()) for _ in range(servers)]
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="proxy")))
        folder.chmod(0o755)
        ports = ", ".join(str(server.port) for server in running)
        config = folder / "proxy.lua"
        config.write_text(_CONFIG % {"ports": ports, "timeout": timeout})
        proxy = stack.enter_context(Memcached("-o", f"proxy_config={config}"))
        yield MemcachedProxy(proxy, running)
