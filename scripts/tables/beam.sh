#!/usr/bin/env bash
# Measures the paper's table of beam search; --help lists the options.
export PYTHONPATH=$(dirname "${BASH_SOURCE[0]}")/..${PYTHONPATH:+:$PYTHONPATH}
exec python -m tables run beam "$@"
