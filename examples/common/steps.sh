# Sourced by the run.sh of every example: its options, its steps and the comparison of systems.
# Steps that are complete are not repeated; after a failure the next run resumes there.
set -euo pipefail

# A thread that spins for another holds up both when something else needs the core.
export OMP_WAIT_POLICY=PASSIVE

examples=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
here=$(cd "$(dirname "$0")" && pwd)
example=$(basename "$here")
export PYTHONPATH=$examples${PYTHONPATH:+:$PYTHONPATH}

# What an example offers; the first is the default. One with families sets its own.
profiles=(full smoke) families=()

usage() {
  cat <<TEXT
usage: run.sh [OPTION...] [-- OPTION-OF-FAIRSEQ-GENERATE...]
  --data FOLDER    the published data (default: build/${data_of:-$example}/data)
  --model FOLDER   the published model, where there is one (default: build/$example/model)
  --work FOLDER    where results are written (default: build/$example/PROFILE)
  --profile NAME   ${profiles[*]}: the first is the default, smoke a short form for tests
${families:+  --family NAME    ${families[*]}: the first is the default
}\
  --download       download data and models that are missing
  --unverified     accept data of other checksums and sizes than the published ones
TEXT
}

# Sets data, model, work, profile, family, acquire (options for what obtains files) and extra (for
# fairseq-generate), and begins.
parse_options() {
  local build=$examples/../build
  data=$build/${data_of:-$example}/data model=$build/$example/model work= acquire=() extra=()
  profile=${profiles[0]} family=${families[0]-}
  while [ $# -gt 0 ]; do
    case $1 in
      --data | --model | --work | --profile | --family)
        [ $# -gt 1 ] || { echo "run.sh: $1 wants a value" >&2 && exit 2; }
        printf -v "${1#--}" %s "$2"
        shift
        ;;
      --download | --unverified) acquire+=("$1") ;;
      --help) usage && exit ;;
      --) shift && extra=("$@") && break ;;
      *) echo "run.sh: unknown option $1; see run.sh --help" >&2 && exit 2 ;;
    esac
    shift
  done
  check_choice profile "$profile" "${profiles[@]}"
  check_choice family "$family" "${families[@]}"
  work=${work:-$build/$example/$profile}
  begin
}

# check_choice OPTION VALUE CHOICE...: leaves with a message if VALUE is none of the choices.
check_choice() {
  local option=$1 value=$2
  shift 2
  [[ " ${*-} " == *" $value "* ]] && return
  echo "run.sh: the $option is \"$value\"; expected one of: ${*:-none}" >&2
  exit 2
}

# Makes $work and the key that every step depends on.
begin() {
  mkdir -p "$work"
  work=$(cd "$work" && pwd)
  key=$(python - <<'PYTHON'
import sys
from importlib.metadata import packages_distributions, version
fairseq = packages_distributions()["fairseq"][0]
print(sys.version, version("torch"), fairseq, version(fairseq))
PYTHON
  )
  user_dir=$(el-attention user-dir)
}

# step NAME COMMAND...: runs COMMAND, whose output belongs in $work/NAME, unless that is complete:
# it is done again when its command, its script or a step before it has changed.
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

# generate FOLDER BINARY OPTION...: the test split, with the task and attention of the options.
generate() {
  local folder=$work/$1 binary=$2
  shift 2
  local arguments=(
    "$binary" --gen-subset test --required-batch-size-multiple 1 --no-progress-bar "$@"
  )
  python "$examples/common/run_measured.py" "$folder" -- fairseq-generate "${arguments[@]}"
  python "$examples/common/measure_state.py" "$folder/state.json" "${arguments[@]}"
}

# compare USER-DIR STOCK-TASK EL-TASK BINARY OPTION... -- REPORT-OPTION...: generates from the folder
# BINARY with the stock task, which USER-DIR provides, and with both plans of EL-attention's task,
# then prints the report.
compare() {
  local stock_dir=$1 stock_task=$2 el_task=$3 binary=$4 generation=()
  shift 4
  while [ "$1" != -- ]; do generation+=("$1") && shift; done
  shift
  # When the package changes the checkpoint stays, what was generated with it does not.
  key+=$(
    find "$user_dir" "$examples/common" \( -name '*.py' -o -name '*.so' \) -print0 |
      sort -z | xargs -0 cat | cksum
  )
  step stock generate stock "$binary" --user-dir "$stock_dir" --task "$stock_task" \
    "${generation[@]}" "${extra[@]}"
  for plan in expanded-query shared-projection; do
    step $plan generate $plan "$binary" --user-dir "$user_dir" --task "$el_task" --attention-plan $plan \
      "${generation[@]}" "${extra[@]}"
  done
  step report python "$examples/common/report.py" "$work/report" \
    "stock fairseq multi-head attention=$work/stock" \
    "EL-attention, expanded query=$work/expanded-query" \
    "EL-attention, shared projection=$work/shared-projection" "$@"
  echo
  cat "$work/report/report.md"
}
