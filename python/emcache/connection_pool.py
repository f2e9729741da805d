"""The counters of the connection pools."""

from dataclasses import dataclass


@dataclass
class ConnectionPoolMetrics:
    """What one node's pool did since the client was created.

    The four ``create_connection_*`` are seconds over the last 100 connects, ``None`` until one
    succeeded.
    """

    cur_connections: int
    connections_created: int
    connections_created_with_error: int
    connections_purged: int
    connections_closed: int
    operations_executed: int
    operations_executed_with_error: int
    operations_waited: int
    create_connection_avg: float | None
    create_connection_p50: float | None
    create_connection_p99: float | None
    create_connection_upper: float | None
