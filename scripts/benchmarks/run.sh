#!/usr/bin/env bash
# Times this plugin, stock fairseq, Transformers and CTranslate2 in turns; --help lists the options.
export PYTHONPATH=$(dirname "${BASH_SOURCE[0]}")/..${PYTHONPATH:+:$PYTHONPATH}
exec python -m benchmarks "$@"
