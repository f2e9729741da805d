"""The options of ``create_client``, as other libraries pass them."""

import inspect
from collections.abc import Mapping
from typing import Any

from ._create import create_client
from ._routing import parse_names, parse_weights

CLIENT_OPTIONS = {
    name: parameter.default
    for name, parameter in inspect.signature(create_client).parameters.items()
    if name != "node_addresses"
}
"""The options by name, with their defaults."""

_MAPPINGS = {"weights": parse_weights, "names": parse_names}
_WORDS = {"1": True, "true": True, "yes": True, "on": True}
_WORDS |= {"0": False, "false": False, "no": False, "off": False}


def from_text(options: Mapping[str, Any]) -> dict[str, Any]:
    """Convert options that are text, such as those of a URL, to the types of their defaults.

    Raises:
        ValueError: a text that does not match the type of the option.
    """
    return {name: _convert(name, value) for name, value in options.items()}


def _convert(name: str, value: Any) -> Any:
    default = CLIENT_OPTIONS[name]
    if name in _MAPPINGS and isinstance(value, str):
        return _MAPPINGS[name](value)
    if not isinstance(value, str) or default is None:
        return value
    try:
        if isinstance(default, bool):
            return _WORDS[value.lower()]
        return type(default)(value)
    except (KeyError, ValueError):
        kind = "true or false" if isinstance(default, bool) else "a number"
        raise ValueError(f"{name} must be {kind}, not {value!r}") from None
