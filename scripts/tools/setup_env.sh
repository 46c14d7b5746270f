#!/usr/bin/env bash
# Makes .venv: torch, fairseq, this project (editable, with the compiled operators), what its tests
# and its demo need.
#   PYTHON      the interpreter (default: the first CPython 3.10-3.12 of python3, python3.11,
#               python3.10, python3.12)
#   TORCH_SPEC  the requirement for torch (default: torch==2.13.0)
# A complete .venv keeps its interpreter and its torch until one of the two asks for others.
# Does nothing when .venv is complete. After a failure, run it again: pip skips what is there.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

venv=.venv
log=.venv.log
torch_spec=${TORCH_SPEC:-$(head -n 1 $venv/complete 2>/dev/null || echo torch==2.13.0)}
candidates=($venv/bin/python python3 python3.11 python3.10 python3.12)
[ -z "${PYTHON:-}" ] || candidates=("$PYTHON")

fail() {
  echo "setup_env: $*" >&2
  exit 1
}

# Prints the interpreter, or the one it was made from if it is a virtual environment's.
find_python() {
  local candidate
  for candidate in "${candidates[@]}"; do
    "$candidate" -c 'import sys
if sys.implementation.name != "cpython" or not (3, 10) <= sys.version_info[:2] <= (3, 12):
    sys.exit(1)
in_venv = sys.prefix != sys.base_prefix
print("%s/bin/python%d.%d" % (sys.base_prefix, *sys.version_info[:2]) if in_venv else sys.executable)' \
      2>/dev/null && return
  done
  fail "CPython 3.10, 3.11 or 3.12 is needed and this is none: ${candidates[*]}." \
    "Set PYTHON to the path of one."
}

check_prerequisites() {
  "$python" -c 'import ensurepip, venv' 2>/dev/null ||
    fail "$python cannot make virtual environments: it has no venv or no ensurepip." \
      "On Debian and Ubuntu: apt-get install python3-venv"
  "$python" -c 'import os, sys, sysconfig
sys.exit(not os.path.exists(os.path.join(sysconfig.get_path("include"), "Python.h")))' ||
    fail "fairseq is built from source, and $python has no C headers (Python.h)." \
      "On Debian and Ubuntu: apt-get install python3-dev"
  command -v ${CXX:-c++} >/dev/null ||
    fail "fairseq is built from source, and there is no C++ compiler (${CXX:-c++})." \
      "On Debian and Ubuntu: apt-get install g++"
}

# step TITLE COMMAND...: shows what is downloaded and built; all of the output goes to the log.
number=0
title=
step() {
  local started=$SECONDS
  number=$((number + 1))
  title=$1
  shift
  echo "[$number/4] $title"
  "$@" 2>&1 | tee -a "$log" |
    sed -n -e '/\.metadata/d' -e '/^ *Downloading/p' -e '/^ *Building wheel.*started/p' \
      -e '/^ *setup\.py: /p'
  echo "      done in $((SECONDS - started)) s"
  title=
}

report_failed_step() {
  [ -n "$title" ] || return 0
  tail -n 30 "$log" >&2
  echo "setup_env: step $number ($title) failed: see above, or all of it in $log." \
    "Run again to resume." >&2
}

make_venv() {
  [ "$(cat $venv/base 2>/dev/null)" != "$base" ] || return 0
  "$python" -m venv --clear $venv
  echo "$base" >$venv/base
}

# fairseq reads np.compat, which numpy 2 has not, for data sets of language models.
pip_install() {
  $venv/bin/python -m pip install --disable-pip-version-check 'numpy<2' "$@"
}

install_torch() {
  # pip 24.1 and later refuse the metadata of omegaconf 2.0, which fairseq 0.12.2 needs.
  [ "$version" != 3.10 ] || pip_install 'pip<24.1'
  # What is built without isolation below finds its build requirements here.
  pip_install "$torch_spec" cython wheel 'setuptools>=77,<81' ninja packaging
}

install_fairseq() {
  if [ "$version" = 3.10 ]; then
    # Isolated: where its build sees torch it wants a source file that its sdist lacks.
    pip_install 'fairseq==0.12.2'
  else
    # Not isolated: the isolated build downloads a second torch.
    pip_install --no-build-isolation 'fairseq-fixed>=0.12.3.1,<0.13'
  fi
}

install_project() {
  # Not isolated: the operators are compiled for the torch that is here. -v shows what setup.py says.
  pip_install -v --no-build-isolation --editable '.[fairseq,demo,dev]'
  # fairseq asks for torchaudio and imports without it. No torchaudio is made for today's torch, and
  # one for another torch breaks `import transformers`.
  $venv/bin/python -c 'import torchaudio' 2>/dev/null ||
    $venv/bin/python -m pip uninstall --yes torchaudio
}

python=$(find_python)
version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
base=$(printf '%s\n' "$torch_spec" "$PWD" "$("$python" -VV)")
sources=$(find csrc -name emulator -prune -o -type f -print | sort)
key=$base$(cat pyproject.toml setup.py scripts/tools/setup_env.sh $sources | cksum)
[ "$(cat $venv/complete 2>/dev/null)" != "$key" ] || [ ! -e el_attention/_C.json ] || exit 0

check_prerequisites
echo "setup_env: $("$python" -V) ($python), $torch_spec"
trap report_failed_step EXIT
: >"$log"
step "virtual environment in $venv" make_venv
step "$torch_spec and the build tools" install_torch
step "fairseq, built from source" install_fairseq
step "this project, its tests, its demo" install_project
echo "$key" >$venv/complete
echo "setup_env: complete; to use it in this shell: . $venv/bin/activate"
