"""A check for integrations that read the counters of a client."""

from .._client import Client


def check_real_client(client: object) -> None:
    """Refuse anything but a client of ``create_client``, also subclasses that programs write."""
    if not isinstance(client, Client) or not hasattr(client, "_core"):
        raise TypeError(f"client must be created by create_client(), not {type(client).__name__}")
