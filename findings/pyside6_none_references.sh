#!/usr/bin/env bash
# References to None under PySide6 6.12.0 on Python 3.11 (PYTHON=..., or python3.11).
set -euo pipefail
python=${PYTHON:-python3.11}
"$python" -c 'import sys; sys.exit(sys.version_info >= (3, 12))' 2>/dev/null \
    || { echo "no Python 3.11: None cannot be freed on later ones"; exit 77; }
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"$python" -m venv "$folder/venv" || { echo "no venv"; exit 77; }
for version in 6.11.0 6.12.0; do
    "$folder/venv/bin/python" -m pip install -q --disable-pip-version-check \
        "PySide6-Essentials==$version" || { echo "no packages"; exit 77; }
    "$folder/venv/bin/python" - <<'PYTHON'
import sys

import PySide6.QtCore
from PySide6.QtCore import QCoreApplication, QObject

TIMERS = 100


class Timers(QObject):
    fired = 0

    def timerEvent(self, event):
        self.killTimer(event.timerId())
        self.fired += 1
        if self.fired == TIMERS:
            QCoreApplication.quit()


application = QCoreApplication([])
timers = Timers()
before = sys.getrefcount(None)
for _ in range(TIMERS):
    timers.startTimer(0)
application.exec()
lost = before - sys.getrefcount(None)
print(f"Python {sys.version.split()[0]}, PySide6 {PySide6.__version__}:", end=" ")
print(f"{lost} references to None fewer after {TIMERS} timers")
is_losing = lost > TIMERS // 2
sys.exit(is_losing != (PySide6.__version__ == "6.12.0"))
PYTHON
done
