#!/usr/bin/env bash
# CNN/DailyMail summaries by GPT-2, the document as prompt, with stock attention and EL-attention.
# GPT2_NAME chooses gpt2 (default), gpt2-medium, gpt2-large or gpt2-xl. For the options: run.sh --help.
source "$(dirname "${BASH_SOURCE[0]}")/../common/steps.sh"
data_of=summarization_cnn_dm
parse_options "$@"

# Prompt and summary have to fit the positions of the model: 1024, or 64 of the tests' model.
case $profile in
  full) document=900 summary=100 ;;
  smoke) document=30 summary=12 ;;
esac

binarise() {
  rm -f "$work"/binary/dict.* # fairseq-preprocess overwrites the rest
  fairseq-preprocess --only-source --testpref "$work/prompts/test.source" \
    --srcdict "$work/model/dict.txt" --destdir "$work/binary"
}

step data python "$examples/summarization_cnn_dm/prepare.py" "$data" "$work/data" "${acquire[@]}"
step model python "$here/convert.py" "${GPT2_NAME:-gpt2}" "$model" "$work/model" "${acquire[@]}"
step prompts python "$examples/common/pieces.py" "$work/model" "$work/prompts" \
  "$work/data/test.source" --longest $document --end $'\nTL;DR:'
step binary binarise
compare "$user_dir" language_modeling el_language_modeling "$work/binary" \
  --path "$work/model/model.pt" --sample-break-mode eos \
  --beam 4 --max-len-a 1 --max-len-b $summary --batch-size 8 \
  -- --title "CNN/DailyMail, GPT-2" --pieces "gpt2=$work/model" \
  --prompts "$work/prompts/test.source" --sentences 3 \
  --sources "$work/data/test.source" --references "$work/data/test.target"
