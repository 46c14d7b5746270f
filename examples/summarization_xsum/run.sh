#!/usr/bin/env bash
# XSum summaries by bart.large.xsum with stock attention and with EL-attention.
# For the options: run.sh --help.
source "$(dirname "${BASH_SOURCE[0]}")/../common/bart.sh"
parse_options "$@"
summarize "XSum, bart.large.xsum" bart.large.xsum \
  --beam 6 --lenpen 1.0 --max-len-b 60 --min-len 10 --no-repeat-ngram-size 3
