#!/usr/bin/env bash
# Measures all tables, then makes report.md and report.html of them; --help lists the options.
set -euo pipefail
export PYTHONPATH=$(dirname "${BASH_SOURCE[0]}")/..${PYTHONPATH:+:$PYTHONPATH}
exec python -m tables run all --report "$@"
