"""Numbers with units, as people read them."""

UNKNOWN = "-"


def plural(number: int, noun: str) -> str:
    """Format a number with its noun: 1 node, 2 nodes."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def number(value: float | None) -> str:
    """Format a number in at most six characters: 9500, 12.3k, 4.56M."""
    if value is not None and value == int(value) < 10_000:
        return str(int(value))
    return _scaled(value, 1000.0, ("", "k", "M", "G", "T", "P"))


def size(value: float | None) -> str:
    """Format a number of bytes in powers of 1024: 950B, 12.3K, 4.56M."""
    return _scaled(value, 1024.0, ("B", "K", "M", "G", "T", "P"))


def _scaled(value: float | None, step: float, units: tuple[str, ...]) -> str:
    if value is None:
        return UNKNOWN
    scaled, unit = value, 0
    while scaled >= 999.5 and unit < len(units) - 1:
        scaled, unit = scaled / step, unit + 1
    digits = 0 if scaled >= 100 or value == int(value) < 999.5 else 1 if scaled >= 10 else 2
    return f"{scaled:.{digits}f}{units[unit]}"


def percent(value: float | None) -> str:
    """Format a ratio as a percentage."""
    return UNKNOWN if value is None else f"{value * 100:.1f}%"


def milliseconds(value: float | None) -> str:
    """Format milliseconds."""
    return UNKNOWN if value is None else f"{value:.2f}" if value < 100 else f"{value:.0f}"


def duration(seconds: int | None) -> str:
    """Format a duration in its largest unit: 42s, 7m, 3h, 12d."""
    if seconds is None:
        return UNKNOWN
    for unit, length in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= 2 * length:
            return f"{seconds // length}{unit}"
    return f"{seconds}s"
