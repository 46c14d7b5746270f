#!/usr/bin/env bash
# Measures speed by batch in processes of limited memory; --help lists the options.
set -euo pipefail
root=$(dirname "${BASH_SOURCE[0]}")/../../..
export PYTHONPATH=$root/scripts:$root/examples${PYTHONPATH:+:$PYTHONPATH}
exec python -m research.tables run capped --profile capped --report "$@"
