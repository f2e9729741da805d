"""Types in public signatures."""

from typing import TYPE_CHECKING, Literal, TypeAlias

if TYPE_CHECKING:
    from datetime import datetime, timedelta
else:
    # The same classes for annotations; before Python 3.12 `datetime` takes 2 ms to import.
    try:
        from _datetime import datetime, timedelta
    except ImportError:
        from datetime import datetime, timedelta

Value = bytes | bytearray | memoryview
Exptime: TypeAlias = int | timedelta | datetime
OnError = Literal["raise", "partial"]
ManyOutcome = tuple[list[bytes], list[bytes], dict[bytes, Exception]]
"""Keys that were changed, keys with a negative reply, and errors by key."""
