"""The examples of a page of the documentation, and what it takes to run them."""

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]

_FENCE = re.compile(
    r"^(?P<indent> *)(?P<fence>`{3,})(?P<language>[\w-]*)\n(?P<code>.*?)^(?P=indent)(?P=fence)\n",
    re.DOTALL | re.MULTILINE,
)
_NOT_RUN = re.compile(r"<!-- not run: (?P<reason>[^\n]+) -->\n\s*\Z")
_PORT = re.compile(r"\b1121[1-9]\b")
_ELSEWHERE = re.compile(r"(?:\$ )?(?:pip|uv|apt-get|docker|kubectl|make|git|systemctl)\b")
"""What installs, builds or deploys: no test of ours may do it."""


@dataclass
class Block:
    """A fenced block of a page."""

    line: int
    language: str
    code: str
    reason: str | None = None
    """Why it is not run."""
    output: str | None = None
    """What the page says that it prints: a block of `text` right behind it."""


def pages() -> list[Path]:
    """All pages with examples in them."""
    found = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
    return [page for page in found if runnable(page)]


def runnable(page: Path) -> list[Block]:
    return [block for block in blocks(page.read_text()) if _is_runnable(block)]


def _is_runnable(block: Block) -> bool:
    if block.language in ("sh", "console"):
        return not any(_ELSEWHERE.match(line) for line in block.code.splitlines())
    return block.language in ("python", "pycon")


def blocks(text: str) -> list[Block]:
    found: list[Block] = []
    end = 0
    for match in _FENCE.finditer(text):
        indent = len(match["indent"])
        code = "".join(line[indent:] or "\n" for line in match["code"].splitlines(keepends=True))
        between = text[end : match.start()]
        end = match.end()
        if match["language"] == "text" and found and not between.strip():
            found[-1].output = code
            continue
        line = text.count("\n", 0, match.start()) + 2
        reason = _NOT_RUN.search(between)
        found.append(Block(line, match["language"], code, reason["reason"] if reason else None))
    return found


def ports(found: list[Block]) -> list[str]:
    """The ports that a page's examples speak of."""
    return sorted({port for block in found for port in _PORT.findall(block.code)})


def here(text: str, places: dict[str, int]) -> str:
    """An example with its nodes on this machine, and no longer than it must be."""
    for name in ("cache1.internal", "memcached.default.svc.cluster.local"):
        text = text.replace(name, "localhost")
    text = text.replace("10.0.0.5", "127.0.0.1").replace("--seconds 2", "--seconds 0.1")
    return _PORT.sub(lambda match: str(places[match[0]]), text)
