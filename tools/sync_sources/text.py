"""Changes of text that all files need."""

import re

OWN = {
    "_client_base",
    "_core",
    "_counters",
    "_fallbacks",
    "_meta_commands",
    "_meta_replies",
    "_migration",
    "_node_queries",
}
"""Modules that the synchronous package has itself."""

Pairs = list[tuple[str, str]]


def replaced(text: str, pairs: Pairs) -> str:
    for old, new in pairs:
        if old not in text:
            raise SystemExit(f"not found, so tools/make_sync.py has to change:\n{old}")
        text = text.replace(old, new)
    return text


def between(text: str, start: str, end: str | None = None) -> str:
    begin = text.index(start)
    return text[begin : text.index(end, begin) if end else None]


def without_awaits(text: str) -> str:
    text = re.sub(r"await asyncio\.shield\((.*)\)\n", r"\1\n", text)
    text = re.sub(r"Awaitable\[(\w+)\]", r"\1", text)
    text = re.sub(r"from collections\.abc import Awaitable, ", "from collections.abc import ", text)
    text = text.replace("async def ", "def ").replace("await ", "")
    return re.sub(r"\bCoreClient\b", "SyncCore", re.sub(r"\bCoreMeta\b", "SyncCoreMeta", text))


def moved(text: str) -> str:
    """Import from the package above, but for the modules that this package has itself."""

    def of(match: re.Match[str]) -> str:
        return match[0] if match[1] in OWN else f"from ..{match[1]} import"

    text = re.sub(r"from \.(\w+) import", of, text)
    return re.sub(r"from \. import", "from .. import", text)
