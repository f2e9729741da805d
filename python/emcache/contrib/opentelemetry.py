"""Spans and metrics of calls, by OpenTelemetry's conventions for databases.

Needs ``opentelemetry-api`` (``pip install 'emcache[otel]'``) and an SDK with an exporter::

    from emcache.contrib.opentelemetry import EmcacheInstrumentor

    EmcacheInstrumentor().instrument()  # all clients, also those that exist already

To instrument one client, use ``EmcacheInstrumentor.instrument_client(client)``. Clients that are
not instrumented have no overhead.

Each call is a span of the kind CLIENT, named after memcached's command (``get``); a call with many
keys is one span. Spans contain no keys and no values, and no messages of exceptions, which may
contain a key. A miss, or a condition that is not met, is not recorded as an error.
"""

from typing import Any, cast

try:
    from opentelemetry.metrics import MeterProvider, get_meter_provider
    from opentelemetry.trace import Tracer, TracerProvider, get_tracer_provider
except ImportError as _missing:
    raise ImportError(
        "emcache.contrib.opentelemetry needs opentelemetry-api: pip install 'emcache[otel]'"
    ) from _missing

from .._client import Client
from ..version import __version__
from ._otel_calls import ORIGINALS, wrappers
from ._otel_metrics import SCHEMA_URL, Meters, meters_for
from ._real_client import check_real_client

__all__ = ["EmcacheInstrumentor"]


class EmcacheInstrumentor:
    """Switches the instrumentation on and off."""

    _meters: Meters | None = None

    def instrument(
        self,
        *,
        tracer_provider: TracerProvider | None = None,
        meter_provider: MeterProvider | None = None,
    ) -> None:
        """Instrument all existing and future clients.

        A second call changes the providers; None for the global providers.
        """
        tracer, meters = _parts(tracer_provider, meter_provider)
        self.uninstrument()
        EmcacheInstrumentor._meters = meters
        for name, wrapper in wrappers(tracer, meters).items():
            setattr(Client, name, wrapper)

    def uninstrument(self) -> None:
        """Undo :meth:`instrument`; does nothing if it was not called."""
        for name, original in ORIGINALS.items():
            setattr(Client, name, original)
        if EmcacheInstrumentor._meters is not None:
            EmcacheInstrumentor._meters.clear()
            EmcacheInstrumentor._meters = None

    @staticmethod
    def instrument_client(
        client: Client,
        *,
        tracer_provider: TracerProvider | None = None,
        meter_provider: MeterProvider | None = None,
    ) -> None:
        """Instrument one client; its providers take precedence over those of :meth:`instrument`.

        Raises:
            TypeError: not a client of :func:`emcache.create_client`.
        """
        check_real_client(client)
        tracer, meters = _parts(tracer_provider, meter_provider)
        EmcacheInstrumentor.uninstrument_client(client)
        methods = wrappers(tracer, meters)
        # A subclass, because wrappers that refer to the client would be a reference cycle.
        client.__class__ = type("Client", (Client,), {**methods, "_meters": meters})
        meters.add(client)

    @staticmethod
    def uninstrument_client(client: Client) -> None:
        """Undo :meth:`instrument_client`; does nothing if it was not called."""
        if "_meters" in vars(type(client)):
            cast(Any, client)._meters.remove(client)
            client.__class__ = Client


def _parts(
    tracer_provider: TracerProvider | None, meter_provider: MeterProvider | None
) -> tuple[Tracer, Meters]:
    tracers = get_tracer_provider() if tracer_provider is None else tracer_provider
    meters = get_meter_provider() if meter_provider is None else meter_provider
    tracer = tracers.get_tracer("emcache", __version__, SCHEMA_URL)
    return tracer, meters_for(meters)
