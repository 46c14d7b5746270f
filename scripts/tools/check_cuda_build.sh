#!/usr/bin/env bash
# Compiles the CUDA operators for all architectures, links them with a CUDA torch, installs, imports,
# lists and traces them, on a machine with nvcc but without a GPU.
#   CUDA_ENV    environment for the CUDA torch, made if it is not there: 5.5 GB (default:
#               build/cuda-env)
#   PYTHON      the interpreter to make it with (default: python3)
#   TORCH_SPEC  requirement for a torch built with CUDA (default: torch==2.14.1)
# Ends with 77 where that torch cannot be had within a quarter of an hour.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

environment=${CUDA_ENV:-build/cuda-env}
if [ ! -e "$environment/bin/python" ]; then
  "${PYTHON:-python3}" -m venv "$environment"
  timeout 900 "$environment/bin/python" -m pip install --disable-pip-version-check -q \
    "${TORCH_SPEC:-torch==2.14.1}" numpy ninja packaging 'setuptools>=77,<81' wheel || {
    echo "check_cuda_build: skipped, because ${TORCH_SPEC:-torch==2.14.1} could not be installed" >&2
    rm -rf "$environment"
    exit 77
  }
fi
started=$SECONDS
EL_ATTENTION_CUDA=1 PYTHON=$environment/bin/python scripts/tools/check_wheel.sh
# The environment's triton has nvdisasm.
"$environment/bin/python" scripts/tools/check_sass.py --check
echo "check_cuda_build: done in $((SECONDS - started)) s"
