#!/usr/bin/env bash
# asyncio.eager_task_factory under uvloop, with Python 3.13 or later (PYTHON=..., or the first in PATH).
set -euo pipefail
is_new_enough() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 13))' 2>/dev/null; }
for python in ${PYTHON:-python3.13 python3.14 python3}; do
    is_new_enough "$python" && break
    python=
done
[ -n "$python" ] || { echo "no Python 3.13 or later: set PYTHON"; exit 77; }
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"$python" -m venv "$folder/venv" || { echo "no venv"; exit 77; }
"$folder/venv/bin/python" -m pip install -q --disable-pip-version-check uvloop==0.23.0 \
    || { echo "no packages"; exit 77; }
"$folder/venv/bin/python" - <<'PYTHON'
import asyncio
import sys

import uvloop

print("Python", sys.version.split()[0], "uvloop", uvloop.__version__)


async def main():
    started = False

    async def work():
        nonlocal started
        started = True

    loop, coroutine = asyncio.get_running_loop(), work()
    loop.set_task_factory(asyncio.eager_task_factory)
    try:
        task = loop.create_task(coroutine)
    except TypeError as error:
        coroutine.close()
        return f"no task: {error}"
    finally:
        loop.set_task_factory(None)
    result = "started at once" if started else "not started by create_task"
    await task
    return result


def result_of(new_loop):
    with asyncio.Runner(loop_factory=new_loop) as runner:
        return runner.run(main())


loops = {"asyncio": asyncio.SelectorEventLoop, "uvloop": uvloop.new_event_loop}
results = {name: result_of(new_loop) for name, new_loop in loops.items()}
for name, result in results.items():
    print(f"{name}: {result}")
expected = "no task: " if sys.version_info < (3, 14) else "not started"
sys.exit(not (results["asyncio"] == "started at once" and results["uvloop"].startswith(expected)))
PYTHON
