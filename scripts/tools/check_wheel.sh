#!/usr/bin/env bash
# Builds the source distribution, a wheel from it, installs the wheel into an environment of its own
# and runs the operators there, away from the source tree. Downloads nothing: torch and fairseq are
# those of PYTHON's environment (default: .venv), whose el_attention is not seen.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

python=$(realpath -s "${PYTHON:-.venv/bin/python}")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

"$python" - "$work" >"$work/log" 2>&1 <<'END' || { cat "$work/log" >&2; exit 1; }
import sys
from setuptools import build_meta

build_meta.build_sdist(sys.argv[1])
END
mkdir "$work/source"
tar -xzf "$work"/el_attention-*.tar.gz -C "$work/source" --strip-components 1
"$python" -m pip wheel --disable-pip-version-check -q --no-deps --no-build-isolation \
  --wheel-dir "$work" "$work/source"

# A function outside the namespaces of an instruction set, if compiled with its options, could be
# linked for all machines: std::vector's from the AVX-512 object, say. So none may be emitted. Torch's
# own vectors are in such namespaces.
objects=$(find "$work/source/build" -path '*/AVX*.o')
if [ "$(uname -m)" = x86_64 ] && ! nm -C $objects >"$work/symbols"; then
  echo "check_wheel: nm cannot read the objects with special instructions: ${objects:-none}" >&2
  exit 1
elif grep -E ' [VWu] ' "$work/symbols" | grep -vE ' [VWu] at::vec::AVX(2|512)::'; then
  echo "check_wheel: weak symbols (above) in objects with special instructions" >&2
  exit 1
fi

"$python" -m venv --without-pip "$work/env"
# As a plain path: the .pth files there, of an editable el_attention for one, are not read.
"$python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))' \
  >"$("$work/env/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/outer.pth"
"$python" -m pip --python "$work/env/bin/python" install --disable-pip-version-check -q --no-deps \
  --no-index "$work"/el_attention-*.whl

checks=$PWD/scripts/tools/check_installed.py
cd "$work"
env -u PYTHONPATH "$work/env/bin/python" "$checks"
