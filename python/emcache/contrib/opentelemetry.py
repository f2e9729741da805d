"""Spans and metrics of calls, by OpenTelemetry's conventions for databases.

Needs ``opentelemetry-api`` (``pip install 'emcache[otel]'``) and, as ever, an SDK that exports::

    from emcache.contrib.opentelemetry import EmcacheInstrumentor

    EmcacheInstrumentor().instrument()  # all clients, those that are there already too

or one client: ``EmcacheInstrumentor.instrument_client(client)``. What is not instrumented runs the
code that it runs without this module.

Each call is a span of the kind CLIENT, named after memcached's command (``get``); a call with many
keys is one span. Neither keys nor values are in it, nor the texts of exceptions, which may name a
key. That an item does not exist, or a condition is not met, is an answer and no error.
"""

from typing import Any, cast

try:
    from opentelemetry.metrics import MeterProvider, get_meter_provider
    from opentelemetry.trace import Tracer, TracerProvider, get_tracer_provider
except ImportError as _missing:
    raise ImportError(
        "emcache.contrib.opentelemetry needs opentelemetry-api: pip install 'emcache[otel]'"
    ) from _missing

from ..base import Client
from ..client import _Client
from ..version import __version__
from ._otel_calls import ORIGINALS, wrappers
from ._otel_metrics import Meters, meters_of

__all__ = ["EmcacheInstrumentor"]


class EmcacheInstrumentor:
    """Switches spans and metrics on and off."""

    _meters: Meters | None = None

    def instrument(
        self,
        *,
        tracer_provider: TracerProvider | None = None,
        meter_provider: MeterProvider | None = None,
    ) -> None:
        """Instrument all clients, those that are there and those to come.

        A second time changes the providers. None: the global ones.
        """
        tracer, meters = _parts(tracer_provider, meter_provider)
        self.uninstrument()
        EmcacheInstrumentor._meters = meters
        for name, wrapper in wrappers(tracer, meters).items():
            setattr(_Client, name, wrapper)

    def uninstrument(self) -> None:
        """Undo :meth:`instrument`; nothing happens if it was not called."""
        for name, original in ORIGINALS.items():
            setattr(_Client, name, original)
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
        """Instrument one client; for it these providers go before those of :meth:`instrument`.

        Raises:
            TypeError: not a client of :func:`emcache.create_client`.
        """
        if not isinstance(client, _Client):
            raise TypeError(f"client must be one of create_client(), not {type(client).__name__}")
        tracer, meters = _parts(tracer_provider, meter_provider)
        EmcacheInstrumentor.uninstrument_client(client)
        methods = wrappers(tracer, meters)
        # No attribute of the client refers to it, so it still goes when nobody holds it.
        client.__class__ = type("_Client", (_Client,), {**methods, "_meters": meters})
        meters.add(client)

    @staticmethod
    def uninstrument_client(client: Client) -> None:
        """Undo :meth:`instrument_client`; nothing happens if it was not called."""
        if isinstance(client, _Client) and type(client) is not _Client:
            cast(Any, client)._meters.remove(client)
            client.__class__ = _Client


def _parts(
    tracer_provider: TracerProvider | None, meter_provider: MeterProvider | None
) -> tuple[Tracer, Meters]:
    tracers = get_tracer_provider() if tracer_provider is None else tracer_provider
    meters = get_meter_provider() if meter_provider is None else meter_provider
    return tracers.get_tracer("emcache", __version__), meters_of(meters)
