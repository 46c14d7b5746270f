#!/usr/bin/env bash
# One BART in fairseq and in Transformers, with stock attention and with EL-attention: the same
# hypotheses. --model is the folder of results of ../docstring_summarization, if its BART is trained;
# else the model is a random one. For the options: run.sh --help.
source "$(dirname "${BASH_SOURCE[0]}")/../common/steps.sh"
parse_options "$@"

[ -e "$model/bart/train" ] || model=$examples/../build/docstring_summarization/full
checkpoint=$model/bart/train/checkpoint_last.pt
transformers=$work/transformers/model

case $profile in
  full) number=200 tokens=40 ;;
  smoke) number=12 tokens=12 ;;
esac

if [ $profile = full ] && [ -e "$checkpoint" ]; then
  binary=$model/bart/binary texts=$model/subword/test.source
  step transformers el-attention convert-checkpoint "$checkpoint" "$transformers" \
    --dictionary "$binary/dict.source.txt"
else
  echo "no trained BART in $model: the model is random"
  step transformers python "$here/random_model.py" "$transformers" $number
  binary=$work/fairseq/model checkpoint=$work/fairseq/model/model.pt texts=$transformers/texts
  step fairseq el-attention convert-checkpoint "$transformers" "$binary"
fi
step compare python "$here/compare.py" "$checkpoint" "$binary" "$transformers" "$texts" \
  --number $number --tokens $tokens --table "$work/compare/table.md"
cat "$work/compare/table.md"
