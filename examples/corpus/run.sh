#!/usr/bin/env bash
# The docstrings of the installed packages through `el-attention generate`: in one process, in two, in
# shards, and on Ray where that is installed, with equal outputs. For the options: run.sh --help.
source "$(dirname "${BASH_SOURCE[0]}")/../common/steps.sh"
parse_options "$@"

case $profile in
  full) roots=() split=train ;;
  smoke) roots=(--stdlib-only) split=test ;;
esac
model=$work/model texts=$work/data/$split.source

# through NAME OPTION...: the corpus to $work/NAME/out.jsonl
through() {
  local name=$1
  shift
  el-attention generate "$model" "$texts" "$work/$name/out.jsonl" --device cpu --truncation \
    --option num_beams=4 --option max_new_tokens=12 --memory-budget 64MiB "$@"
}

step data python "$examples/docstring_summarization/build_data.py" "$work/data" "${roots[@]}"
step model python "$here/random_model.py" "$work/data/train.source" "$model"
step one through one
step workers through workers --workers 2
for number in 1 2 3; do step shard$number through shard$number --shard $number/3; done
step merged el-attention merge "$texts" "$work/merged/out.jsonl" "$work"/shard?/out.jsonl
systems=(workers merged)
if python -c 'import ray' 2>/dev/null; then
  step ray through ray --engine ray --workers 2
  systems+=(ray)
fi
for system in "${systems[@]}"; do cmp "$work/one/out.jsonl" "$work/$system/out.jsonl"; done
echo "equal: one ${systems[*]}, $(wc -l <"$work/one/out.jsonl") rows"
