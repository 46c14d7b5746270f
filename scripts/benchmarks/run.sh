#!/usr/bin/env bash
# Times this plugin, stock fairseq, Transformers and CTranslate2 in turns; --help lists the options.
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
export PYTHONPATH=$root/scripts:$root/examples${PYTHONPATH:+:$PYTHONPATH}
exec python -m benchmarks "$@"
