#!/usr/bin/env bash
# Docstrings -> data -> training -> generation with stock attention and with EL-attention -> report.
#   DEMO_PROFILE  full (default), or smoke: a short form for CI
#   DEMO_WORK     where everything is written (default: build/docstring_summarization)
# What has been done is kept: running again after a failure resumes at the step that failed.
set -euo pipefail

# A thread that spins for another holds up both when something else needs the core.
export OMP_WAIT_POLICY=PASSIVE

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
profile=${DEMO_PROFILE:-full}
case $profile in
  full) data=() vocabulary=5000 updates=3000 warmup=400 ;;
  smoke) data=(--stdlib-only) vocabulary=2000 updates=120 warmup=40 ;;
  *) echo "run.sh: DEMO_PROFILE is \"$profile\"; expected full or smoke" >&2 && exit 2 ;;
esac
work=${DEMO_WORK:-$here/../../build/docstring_summarization}/$profile
mkdir -p "$work"
work=$(cd "$work" && pwd)

# A step is done again when its command, its script or a step before it has changed.
key=$(python - <<'PYTHON'
import sys
from importlib.metadata import packages_distributions, version
fairseq = packages_distributions()["fairseq"][0]
print(sys.version, version("torch"), fairseq, version(fairseq))
PYTHON
)
user_dir=$(el-attention user-dir)

# step NAME COMMAND...: runs COMMAND, whose output belongs in $work/NAME, unless that is complete.
step() {
  local name=$1 started=$SECONDS argument
  shift
  key=$(
    {
      echo "$key" "$@"
      declare -f "$1" || true
      for argument; do [[ $argument != *.py ]] || cat "$argument"; done
    } | cksum
  )
  local folder=$work/$name
  if [ "$key" = "$(cat "$folder/complete" 2>/dev/null)" ]; then
    echo "[$name] already complete"
    return
  fi
  [ "$key" = "$(cat "$folder/started" 2>/dev/null)" ] || rm -rf "$folder"
  mkdir -p "$folder"
  echo "$key" >"$folder/started"
  echo "[$name]"
  current=$name
  "$@" 2>&1 | tee -a "$folder/log" | sed -un -e 's/.* | INFO | train_inner | /  /p' \
    -e 's/.* | INFO | valid | /  valid /p'
  current=
  mv "$folder/started" "$folder/complete"
  echo "  done in $((SECONDS - started)) s"
}

current=
report_failed_step() {
  [ -n "$current" ] || return 0
  tail -n 20 "$work/$current/log" >&2
  echo "run.sh: step $current failed; see above, or all of it in $work/$current/log." \
    "Run again to resume there." >&2
}
trap report_failed_step EXIT

binarise() {
  rm -f "$work"/binary/dict.* # fairseq-preprocess overwrites the rest
  fairseq-preprocess --source-lang source --target-lang target --joined-dictionary \
    --trainpref "$work/subword/train" --validpref "$work/subword/valid" \
    --testpref "$work/subword/test" --destdir "$work/binary"
}

train() { # train UPDATES WARMUP
  fairseq-train "$work/binary" --save-dir "$work/train" --user-dir "$user_dir" --cpu --seed 1 \
    --task translation --source-lang source --target-lang target \
    --arch transformer --encoder-layers 1 --decoder-layers 3 \
    --encoder-embed-dim 128 --encoder-ffn-embed-dim 512 --encoder-attention-heads 4 \
    --decoder-embed-dim 128 --decoder-ffn-embed-dim 512 --decoder-attention-heads 4 \
    --encoder-normalize-before --decoder-normalize-before --share-all-embeddings --dropout 0 \
    --criterion label_smoothed_cross_entropy --label-smoothing 0.1 \
    --optimizer adam --adam-betas '(0.9, 0.98)' --clip-norm 1 --lr 25e-4 \
    --lr-scheduler polynomial_decay --warmup-updates $2 --total-num-update $1 \
    --max-update $1 --max-tokens 2000 --num-workers 0 \
    --save-interval-updates 500 --keep-interval-updates 1 --no-epoch-checkpoints \
    --log-format simple --log-interval 100
}

# generate FOLDER OPTION...: the test split, with the task and attention of the options.
generate() {
  local folder=$work/$1
  shift
  local arguments=(
    "$work/binary" --path "$work/train/checkpoint_last.pt" --user-dir "$user_dir" --cpu
    --source-lang source --target-lang target --gen-subset test
    --bpe sentencepiece --sentencepiece-model "$work/subword/subword.model"
    --beam 4 --max-len-b 40 --batch-size 64 --required-batch-size-multiple 1
    --no-progress-bar "$@"
  )
  python "$here/run_measured.py" "$folder" -- fairseq-generate "${arguments[@]}"
  python "$here/measure_state.py" "$folder/state.json" "${arguments[@]}"
}

step data python "$here/build_data.py" "$work/data" "${data[@]}"
step subword python "$here/subword.py" "$work/data" "$work/subword" \
  --vocabulary $vocabulary --longest 96
step binary binarise
step train train $updates $warmup
# When the package changes the checkpoint stays, what was generated with it does not.
key+=$(find "$user_dir" "$here" \( -name '*.py' -o -name '*.so' \) -print0 | sort -z | xargs -0 cat | cksum)
step stock generate stock --task translation
step expanded-query generate expanded-query \
  --task el_translation --attention-plan expanded-query
step shared-projection generate shared-projection \
  --task el_translation --attention-plan shared-projection
step report python "$here/report.py" "$work/report" "$work/data" \
  "stock fairseq multi-head attention=$work/stock" \
  "EL-attention, expanded query=$work/expanded-query" \
  "EL-attention, shared projection=$work/shared-projection"
echo
cat "$work/report/report.md"
