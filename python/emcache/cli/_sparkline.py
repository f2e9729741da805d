"""A history of numbers in one line of text."""

from collections.abc import Sequence

BLOCKS = "▁▂▃▄▅▆▇█"
ASCII = "_.-=+*#@"


def sparkline(
    history: Sequence[float | None], samples: int, width: int, largest: float, levels: str = BLOCKS
) -> str:
    """Draw a history.

    Args:
        history: the numbers, the newest last; None where there is none.
        samples: how many numbers the whole width stands for.
        width: the number of characters.
        largest: the number of the highest level.
        levels: the characters, the lowest first.
    """
    padded = [None] * (samples - len(history)) + list(history[-samples:])
    width = min(width, samples)
    return "".join(
        _level(padded[at * samples // width : (at + 1) * samples // width], largest, levels)
        for at in range(width)
    )


def _level(values: list[float | None], largest: float, levels: str) -> str:
    known = [value for value in values if value is not None]
    if not known:
        return " "
    share = sum(known) / len(known) / largest if largest > 0 else 0.0
    return levels[min(int(share * len(levels)), len(levels) - 1)]
