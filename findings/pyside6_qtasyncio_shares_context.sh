#!/usr/bin/env bash
# Context variables of tasks under PySide6.QtAsyncio (PYTHON=..., or python3).
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv" || { echo "no venv"; exit 77; }
"$folder/venv/bin/python" -m pip install -q --disable-pip-version-check \
    PySide6-Essentials==6.11.0 PySide6-Addons==6.11.0 || { echo "no packages"; exit 77; }
"$folder/venv/bin/python" -c "from PySide6 import QtAsyncio" || { echo "no libraries of Qt"; exit 77; }
QT_QPA_PLATFORM=offscreen "$folder/venv/bin/python" - <<'PYTHON'
import asyncio
import contextvars
import sys

import PySide6.QtCore
from PySide6 import QtAsyncio

print("Python", sys.version.split()[0], "PySide6", PySide6.__version__)
variable = contextvars.ContextVar("variable", default="unset")
seen = {}


async def other():
    variable.set("set by another task")


async def main(name):
    await asyncio.create_task(other())
    seen[name] = variable.get()
    print(f"{name}: the variable is {seen[name]}")


asyncio.run(main("asyncio"))
application = PySide6.QtCore.QCoreApplication([])
QtAsyncio.run(main("QtAsyncio"), keep_running=False, quit_qapp=True, handle_sigint=False)
sys.exit(seen != {"asyncio": "unset", "QtAsyncio": "set by another task"})
PYTHON
