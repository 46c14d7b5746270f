# Sourced by the summarization examples with a released BART model: everything but their settings.
source "$(dirname "${BASH_SOURCE[0]}")/steps.sh"

binarise() {
  rm -f "$work"/binary/dict.* # fairseq-preprocess overwrites the rest
  fairseq-preprocess --source-lang source --target-lang target --testpref "$work/pieces/test" \
    --srcdict "$model/dict.txt" --tgtdict "$model/dict.txt" --destdir "$work/binary"
}

# summarize TITLE MODEL GENERATION-OPTION...: data, model, generation and report. The sources begin
# with <s>, at most 1022 pieces follow, and <s> is the first token that is generated, as in the
# interface that the published scores were made with.
summarize() {
  local title=$1 name=$2
  shift 2
  step data python "$here/prepare.py" "$data" "$work/data" "${acquire[@]}"
  step model python "$examples/common/bart_model.py" "$name" "$model" "${acquire[@]}"
  step pieces python "$examples/common/pieces.py" "$model" "$work/pieces" \
    "$work/data/test.source" "$work/data/test.target" --longest 1022 --begin '<s>'
  step binary binarise
  compare "$examples/common/ngram_blocking" translation_with_ngram_blocking el_translation \
    "$work/binary" --path "$model/model.pt" --source-lang source --target-lang target --prefix-size 1 \
    --batch-size 32 "$@" \
    -- --title "$title" --pieces "gpt2=$model" \
    --sources "$work/data/test.source" --references "$work/data/test.target"
}
