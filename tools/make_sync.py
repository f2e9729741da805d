"""Write the synchronous client from the asynchronous one, so that the two cannot drift.

    python tools/make_sync.py           # writes python/emcache/sync/
    python tools/make_sync.py --check   # exit code 1 if a file is not up to date

Signatures, documentation and the meaning of arguments come from the sources listed in ``FILES``.
What waits in another way is written by hand in ``python/emcache/sync/``.
"""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from sync_sources.cache import cache
from sync_sources.client import client, core, helpers, meta_commands, migration
from sync_sources.create import create, url
from sync_sources.django import django_store

PACKAGE = Path(__file__).parents[1] / "python" / "emcache"

FILES: list[tuple[str, str, Callable[[str], str]]] = [
    ("_emcache.pyi", "sync/_core.py", core),
    ("_client.py", "sync/_client.py", client),
    ("_meta_commands.py", "sync/_meta_commands.py", meta_commands),
    ("_fallbacks.py", "sync/_fallbacks.py", helpers),
    ("_counters.py", "sync/_counters.py", helpers),
    ("_migration.py", "sync/_migration.py", migration),
    ("_create.py", "sync/_create.py", create),
    ("_url.py", "sync/_url.py", url),
    ("cache/_cache.py", "sync/_cache.py", cache),
    ("contrib/_django_store.py", "contrib/_django_sync_store.py", django_store),
]


def header(source: str) -> str:
    return f"# Written by tools/make_sync.py from {source}.\n"


def formatted(text: str) -> str:
    python = [sys.executable, "-m", "ruff"]
    name = ["--stdin-filename", str(PACKAGE / "sync" / "any.py"), "-"]
    for command in (["check", "-q", "--fix", "--select", "I,F401"], ["format", "-q"]):
        done = subprocess.run(
            [*python, *command, *name], input=text, capture_output=True, text=True
        )
        text = done.stdout or sys.exit(f"ruff refuses the result: {done.stderr}")
    return text


def main() -> None:
    outdated = []
    for source, target, make in FILES:
        text = header(f"emcache/{source}") + make((PACKAGE / source).read_text())
        text, path = formatted(text), PACKAGE / target
        if not path.exists() or path.read_text() != text:
            outdated.append(target)
            if "--check" not in sys.argv:
                path.write_text(text)
    if outdated:
        print("outdated:" if "--check" in sys.argv else "written:", *outdated)
    sys.exit(bool(outdated) and "--check" in sys.argv)


if __name__ == "__main__":
    main()
