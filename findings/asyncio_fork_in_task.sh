#!/usr/bin/env bash
# A task that forks, whose child calls sys.exit (PYTHON=..., or python3.14 or python3 in PATH).
set -euo pipefail
is_new_enough() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 14, 1))' 2>/dev/null; }
for python in ${PYTHON:-python3.14 python3}; do
    is_new_enough "$python" && break
    python=
done
[ -n "$python" ] || { echo "no Python 3.14.1 or later: set PYTHON"; exit 77; }
"$python" -W ignore - <<'PYTHON'
import asyncio
import os
import signal
import sys


async def main():
    await asyncio.sleep(0)
    pid = os.fork()
    if pid == 0:
        signal.alarm(3)
        sys.exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


print("Python", sys.version.split()[0])
status = asyncio.run(main())
still_runs = status == -signal.SIGALRM
print("sys.exit(0) in the child:", "still runs after 3 s" if still_runs else f"status {status}")
sys.exit(not still_runs)
PYTHON
