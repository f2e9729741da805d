"""Checks of arguments, made before anything is sent or created."""


def check_range(name: str, value: int, minimum: int, maximum: int) -> None:
    """Refuse anything but an integer between ``minimum`` and ``maximum``."""
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{name} must be an int, not {type(value).__name__}")
    if not minimum <= value <= maximum:
        raise ValueError(f"{name} must be between {minimum} and {maximum}")


def check_seconds(name: str, value: float) -> None:
    """Refuse anything but a positive, finite number of seconds."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise TypeError(f"{name} must be a number of seconds, not {type(value).__name__}")
    check_float(name, value)
    if not 0 < value < float("inf"):
        raise ValueError(f"{name} must be a number of seconds > 0")


def check_timeouts(**times: float | None) -> None:
    """Refuse anything but numbers of seconds or None; the core checks their range."""
    for name, value in times.items():
        # Other kinds of numbers are accepted, such as Decimal and numpy's.
        if value is not None and (isinstance(value, bool) or not hasattr(value, "__float__")):
            kind = type(value).__name__
            raise TypeError(f"{name} must be a number of seconds or None, not {kind}")
        if value is not None:
            check_float(name, value)
            # Not `value <= 0`, which is false for NaN.
            if not value > 0 and name != "purge_unused_connections_after":
                raise ValueError(f"{name} must be a number of seconds > 0, or None for no limit")


def check_float(name: str, value: float) -> None:
    """Refuse an integer that no float can represent: event loops count in floats."""
    try:
        float(value)
    except OverflowError:
        raise ValueError(f"{name} is too large to be a number of seconds") from None


def check_bools(**switches: bool) -> None:
    """Refuse values that are merely true or false, such as the text "false" and None."""
    for name, value in switches.items():
        if not isinstance(value, int) or value not in (0, 1):
            raise TypeError(f"{name} must be a bool, not {type(value).__name__} {value!r:.20}")


def check_integer_delta(delta: int) -> None:
    """Refuse a delta of a counter that is not an integer."""
    if not isinstance(delta, int):
        raise TypeError(f"delta must be an int, not {type(delta).__name__}")
