#!/usr/bin/env bash
# Docstrings -> data -> training -> generation with stock attention and with EL-attention -> report.
# For the options: run.sh --help.
source "$(dirname "${BASH_SOURCE[0]}")/../common/steps.sh"
families=(transformer bart lm) profiles=(full long smoke)
parse_options "$@"

# fairseq's diverse search looks for a sentence's number in its batch: they have to be the same.
declare -A searches=(
  [beam]="--beam 4"
  [diverse]="--beam 4 --diverse-beam-groups 4 --batch-size 4096"
  [greedy]="--beam 1"
)
# The learning rate rises for `warmup` updates and falls to zero at the last one.
case $profile in
  full) roots=() vocabulary=5000 warmup=400 updates=3000 dropout=0 chosen=(beam) ;;
  long)
    # Nine times through the data, which a model without dropout would learn by heart.
    roots=() vocabulary=5000 warmup=800 updates=12000 dropout=0.1 chosen=(beam diverse greedy)
    ;;
  smoke)
    roots=(--stdlib-only) vocabulary=2000 warmup=40 updates=120 dropout=0
    case $family in # one for each, so that all of them are run
      transformer) chosen=(beam) ;;
      bart) chosen=(diverse) ;;
      lm) chosen=(greedy) ;;
    esac
    ;;
esac

decoder=(
  --decoder-layers 3 --decoder-embed-dim 128 --decoder-ffn-embed-dim 512
  --decoder-attention-heads 4
)
encoder=(--encoder-embed-dim 128 --encoder-ffn-embed-dim 512 --encoder-attention-heads 4)
pairs=(
  --task translation --source-lang source --target-lang target
  --criterion label_smoothed_cross_entropy --label-smoothing 0.1
)
case $family in
  transformer)
    learning=(
      --arch transformer --encoder-layers 1 "${encoder[@]}" "${decoder[@]}" --lr 25e-4
      --encoder-normalize-before --decoder-normalize-before --share-all-embeddings "${pairs[@]}"
    )
    ;;
  bart)
    learning=(
      --arch bart_base --encoder-layers 2 "${encoder[@]}" "${decoder[@]}" --lr 1e-3 "${pairs[@]}"
    )
    ;;
  lm)
    # It learns the documents as well, so that an update takes more than twice as long.
    [ $profile != long ] || updates=8000
    learning=(
      --arch transformer_lm_gpt2_small "${decoder[@]}" --decoder-layers 4 --lr 2e-3
      --decoder-learned-pos --share-decoder-input-output-embed
      --task language_modeling --sample-break-mode eos --tokens-per-sample 200
    )
    ;;
esac

binarise_pairs() {
  rm -f "$work"/binary/dict.* # fairseq-preprocess overwrites the rest
  fairseq-preprocess --source-lang source --target-lang target --joined-dictionary \
    --trainpref "$subword/train" --validpref "$subword/valid" --testpref "$subword/test" \
    --destdir "$work/binary"
}

# A document and its summary on a line; for generation the document alone, as prompt.
join_pairs() {
  local split
  for split in train valid test; do
    sed 's/$/ <sep>/' "$subword/$split.source" >"$work/lines/$split.prompt"
    paste -d ' ' "$work/lines/$split.prompt" "$subword/$split.target" >"$work/lines/$split"
  done
}

binarise_lines() {
  rm -f "$work"/binary/dict.*
  fairseq-preprocess --only-source --trainpref "$work/lines/train" \
    --validpref "$work/lines/valid" --testpref "$work/lines/test.prompt" --destdir "$work/binary"
}

train() { # train WARMUP UPDATES DROPOUT OPTION...
  local warmup=$1 updates=$2 dropout=$3 TIMEFORMAT='training took %U s of processor time'
  shift 3
  time fairseq-train "$work/binary" --save-dir "$work/train" --user-dir "$user_dir" --cpu --seed 1 \
    "$@" --dropout $dropout --attention-dropout 0 \
    --optimizer adam --adam-betas '(0.9, 0.98)' --clip-norm 1 \
    --lr-scheduler polynomial_decay --warmup-updates $warmup --total-num-update $updates \
    --max-update $updates --max-tokens 2000 --num-workers 0 \
    --save-interval-updates 500 --keep-interval-updates 1 --no-epoch-checkpoints \
    --log-format simple --log-interval 100
}

step data python "$here/build_data.py" "$work/data" "${roots[@]}"
step subword python "$examples/common/subword.py" "$work/data" "$work/subword" \
  --vocabulary $vocabulary --longest 96
texts=$work/data subword=$work/subword work=$work/$family
case $family in
  transformer | bart)
    step binary binarise_pairs
    task=translation
    generation=(--source-lang source --target-lang target --max-len-b 40)
    reporting=()
    ;;
  lm)
    step lines join_pairs
    step binary binarise_lines
    task=language_modeling
    # The limit counts the prompt.
    generation=(--sample-break-mode eos --max-len-a 1 --max-len-b 40)
    reporting=(--prompts "$work/lines/test.prompt")
    ;;
esac
step train train $warmup $updates $dropout "${learning[@]}"
trained=$work
for search in "${chosen[@]}"; do
  work=$trained/$search
  compare "$user_dir" $task el_$task "$trained/binary" \
    --path "$trained/train/checkpoint_last.pt" --cpu --batch-size 64 "${generation[@]}" \
    ${searches[$search]} \
    -- --title "Docstring summarization, $family, $search" --pieces sentencepiece "${reporting[@]}" \
    --sources "$texts/test.source" --references "$texts/test.target"
done
