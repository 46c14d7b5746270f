#!/usr/bin/env bash
# Measures the paper's table of input-related states; --help lists the options.
export PYTHONPATH=$(dirname "${BASH_SOURCE[0]}")/..${PYTHONPATH:+:$PYTHONPATH}
exec python -m tables run memory "$@"
