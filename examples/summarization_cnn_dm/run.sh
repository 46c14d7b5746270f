#!/usr/bin/env bash
# CNN/DailyMail summaries by bart.large.cnn with stock attention and with EL-attention.
# For the options: run.sh --help.
source "$(dirname "${BASH_SOURCE[0]}")/../common/bart.sh"
parse_options "$@"
summarize "CNN/DailyMail, bart.large.cnn" bart.large.cnn \
  --beam 4 --lenpen 2.0 --max-len-b 140 --min-len 55 --no-repeat-ngram-size 3
