#!/usr/bin/env bash
# Measures all tables, then makes report.md and report.html of them; --help lists the options.
set -euo pipefail
root=$(dirname "${BASH_SOURCE[0]}")/../../..
export PYTHONPATH=$root/scripts:$root/examples${PYTHONPATH:+:$PYTHONPATH}
exec python -m research.tables run all --report "$@"
