#!/usr/bin/env bash
# Makes tools/reference/.venv: Python 3.12 with the pinned packages. Packages come from pip's own settings.
# With --peers also the runtimes that peers.py measures beside LeRobot.
set -euo pipefail
cd "$(dirname "$0")"

requirements=(--requirement requirements.txt)
case "${1-}" in
    "") ;;
    --peers) requirements+=(--requirement requirements-peers.txt) ;;
    *) echo "setup.sh: unknown argument '$1'; the only one is --peers" >&2; exit 2 ;;
esac

python="${PYTHON:-python3.12}"
if ! "$python" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 12))' 2>/dev/null; then
    echo "setup.sh: '$python' is not Python 3.12; install it or set PYTHON=/path/to/python3.12" >&2
    exit 2
fi

"$python" -m venv .venv
.venv/bin/python -m pip install "${requirements[@]}"
.venv/bin/python -c 'import lerobot, torch; print("lerobot", lerobot.__version__, "torch", torch.__version__)'
