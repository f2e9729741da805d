"""The reply to ``config get cluster``, in which hosted clusters list their nodes."""

import re

from .._address import MemcachedHostAddress
from .addresses import to_endpoint

Node = tuple[str, str, int]
"""Host name (the IP address if the node has no name), IP address (may be empty), port."""


def parse_cluster_config(payload: bytes) -> tuple[int, list[Node]]:
    """Parse a line with the version, and a line with ``host|ip|port`` for each node.

    Source: the documentation of ElastiCache, "Adding auto discovery to your client library".

    Raises:
        ValueError: not such a reply; one invalid node makes the reply invalid.
    """
    lines = [line.strip() for line in re.split(r"\r?\n", payload.decode()) if line.strip()]
    if len(lines) not in (1, 2) or not re.fullmatch("[0-9]{1,18}", lines[0]):
        raise ValueError("a list of nodes must be a version and a line of nodes")
    nodes = []
    for text in " ".join(lines[1:]).split():
        # IPv6 addresses contain colons, so only the bars separate.
        host, _, rest = text.partition("|")
        ip, bar, port = rest.rpartition("|")
        if not bar or not re.fullmatch("[0-9]{1,5}", port):
            raise ValueError("a node must be host|ip|port")
        to_endpoint(MemcachedHostAddress(host or ip, int(port)))
        nodes.append((host or ip, ip, int(port)))
    return int(lines[0]), nodes
