#!/usr/bin/env bash
# Docstrings -> data -> training -> generation with stock attention and with EL-attention -> report.
# For the options: run.sh --help.
source "$(dirname "${BASH_SOURCE[0]}")/../common/steps.sh"
parse_options "$@"

case $profile in
  full) roots=() vocabulary=5000 updates=3000 warmup=400 ;;
  smoke) roots=(--stdlib-only) vocabulary=2000 updates=120 warmup=40 ;;
esac

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

step data python "$here/build_data.py" "$work/data" "${roots[@]}"
step subword python "$examples/common/subword.py" "$work/data" "$work/subword" \
  --vocabulary $vocabulary --longest 96
step binary binarise
step train train $updates $warmup
compare "$user_dir" translation el_translation \
  --path "$work/train/checkpoint_last.pt" --cpu --source-lang source --target-lang target \
  --beam 4 --max-len-b 40 --batch-size 64 \
  -- --title "Docstring summarization" --pieces sentencepiece \
  --sources "$work/data/test.source" --references "$work/data/test.target"
