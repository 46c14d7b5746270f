#!/usr/bin/env bash
# Measures the paper's table of speed by batch; --help lists the options.
root=$(dirname "${BASH_SOURCE[0]}")/../../..
export PYTHONPATH=$root/scripts:$root/examples${PYTHONPATH:+:$PYTHONPATH}
exec python -m research.tables run batch_size "$@"
