#!/usr/bin/env bash
# Measures the paper's table of speed by batch; --help lists the options.
export PYTHONPATH=$(dirname "${BASH_SOURCE[0]}")/..${PYTHONPATH:+:$PYTHONPATH}
exec python -m tables run batch_size "$@"
