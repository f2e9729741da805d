"""The counters of the connections to one node.

The module is imported with the package and needs no slow ones. A program without a free descriptor
needs these counters most, and cannot import modules any more.
"""

from ._values import Record, dataclass


@dataclass(frozen=False)
class ConnectionPoolMetrics(Record):
    """Counters of the connections to one node. Times are in seconds, over the last 100 connects.

    The fields up to ``create_connection_upper`` are those of emcache 1.3.
    """

    cur_connections: int
    """Connections that are open now."""
    connections_created: int
    connections_created_with_error: int
    """Connection attempts that failed."""
    connections_purged: int
    """Connections that were closed because they were unused for a while."""
    connections_closed: int
    """Connections that were closed for any reason, including purged ones."""
    operations_executed: int
    """Requests with a reply that was not an error."""
    operations_executed_with_error: int
    """Requests with an error as the reply, or without a reply."""
    operations_waited: int
    """Requests that waited for a connection."""
    create_connection_avg: float | None
    create_connection_p50: float | None
    create_connection_p99: float | None
    create_connection_upper: float | None
    connections_checked_out: int = 0
    """Connections that are checked out now."""
    requests_in_flight: int = 0
    """Requests without a reply that are sent, or are about to be sent, now."""
    requests_queued: int = 0
    """Requests that wait for a connection now."""
    requests_abandoned: int = 0
    """Requests in flight that were cancelled or timed out; their replies will be discarded."""
    requests_retried: int = 0
    """Reads that were retried because their connection was lost."""
    requests_timed_out: int = 0
    protocol_errors: int = 0
    """Connections that were closed because of an unexpected reply."""
    bytes_read: int = 0
    bytes_written: int = 0
    connections_idle: int = 0
    """Connections that are neither checked out nor waiting for a reply now."""
    reconnects: int = 0
    """Connections that replaced a lost one."""
    keys_shared: int = 0
    """Keys that several gets of one loop iteration requested; the server was asked once."""
