#!/usr/bin/env bash
# SQuAD 1.1 -> a Transformer that asks the question for an answer -> generation with stock attention
# and with EL-attention -> report. For the options: run.sh --help.
source "$(dirname "${BASH_SOURCE[0]}")/../common/steps.sh"
parse_options "$@"

# Full: 270 million parameters, as in the paper: three embeddings of their own, 6 + 6 layers.
case $profile in
  full)
    vocabulary=30522 updates=20000 warmup=4000 tokens=8192
    sizes=(--arch transformer_vaswani_wmt_en_de_big)
    ;;
  smoke)
    vocabulary=150 updates=20 warmup=5 tokens=500
    sizes=(
      --arch transformer --encoder-layers 2 --decoder-layers 2
      --encoder-embed-dim 32 --encoder-ffn-embed-dim 64 --encoder-attention-heads 4
      --decoder-embed-dim 32 --decoder-ffn-embed-dim 64 --decoder-attention-heads 4
    )
    ;;
esac
metrics=(bleu meteor rouge)
if python -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; then
  sizes+=(--fp16)
fi

binarise() {
  rm -f "$work"/binary/dict.* # fairseq-preprocess overwrites the rest
  fairseq-preprocess --source-lang source --target-lang target --joined-dictionary \
    --trainpref "$work/subword/train" --validpref "$work/subword/valid" \
    --testpref "$work/subword/test" --destdir "$work/binary"
}

train() { # train UPDATES WARMUP TOKENS SIZE-OPTION...
  local updates=$1 warmup=$2 tokens=$3
  shift 3
  fairseq-train "$work/binary" --save-dir "$work/train" --user-dir "$user_dir" --seed 1 \
    --task translation --source-lang source --target-lang target \
    "$@" --dropout 0.3 \
    --encoder-normalize-before --decoder-normalize-before \
    --max-source-positions 514 --max-target-positions 514 \
    --criterion label_smoothed_cross_entropy --label-smoothing 0.1 \
    --optimizer adam --adam-betas '(0.9, 0.98)' --clip-norm 1 --lr 5e-4 \
    --lr-scheduler inverse_sqrt --warmup-updates $warmup \
    --max-update $updates --max-tokens $tokens --required-batch-size-multiple 1 --num-workers 0 \
    --save-interval-updates 1000 --keep-interval-updates 1 --no-epoch-checkpoints \
    --log-format simple --log-interval 100
}

step data python "$here/prepare.py" "$data" "$work/data" "${acquire[@]}"
# Fails now, not after hours of training, if something that scores need is not there.
step scores python "$examples/score.py" --hypotheses "$work/data/test.target" \
  --references "$work/data/test.target" --metrics "${metrics[@]}"
step subword python "$examples/common/subword.py" "$work/data" "$work/subword" \
  --vocabulary $vocabulary --longest 512 --symbols '<sep>'
step binary binarise
step train train $updates $warmup $tokens "${sizes[@]}"
compare "$user_dir" translation el_translation "$work/binary" \
  --path "$work/train/checkpoint_best.pt" --source-lang source --target-lang target \
  --beam 4 --lenpen 1.0 --max-len-b 64 --batch-size 64 \
  -- --title "SQuAD 1.1 question generation, Transformer" --pieces sentencepiece \
  --metrics "${metrics[@]}" \
  --sources "$work/data/test.source" --references "$work/data/test.target"
