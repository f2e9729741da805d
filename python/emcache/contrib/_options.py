"""The options of ``create_client`` as other libraries pass them on."""

import inspect
from collections.abc import Mapping
from typing import Any

from ..client import create_client

CLIENT_OPTIONS = {
    name: parameter.default
    for name, parameter in inspect.signature(create_client).parameters.items()
    if name != "node_addresses"
}
"""The options by name, with their defaults."""

_WORDS = {"1": True, "true": True, "yes": True, "on": True}
_WORDS |= {"0": False, "false": False, "no": False, "off": False}


def check_delta(delta: int) -> None:
    """Refuse what cannot be added to an integer."""
    if not isinstance(delta, int):
        raise TypeError(f"delta must be an int, not {type(delta).__name__}")


def of_text(options: Mapping[str, Any]) -> dict[str, Any]:
    """Give the options, those that are text (from a URL) as what ``create_client`` takes.

    Raises:
        ValueError: a text that is none of what the option takes.
    """
    return {name: _of_text(name, value) for name, value in options.items()}


def _of_text(name: str, value: Any) -> Any:
    default = CLIENT_OPTIONS[name]
    if not isinstance(value, str) or default is None:
        return value
    try:
        if isinstance(default, bool):
            return _WORDS[value.lower()]
        return type(default)(value)
    except (KeyError, ValueError):
        kind = "true or false" if isinstance(default, bool) else "a number"
        raise ValueError(f"{name} must be {kind}, not {value!r}") from None
