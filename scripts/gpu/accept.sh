#!/usr/bin/env bash
# One command of evidence on a machine with a GPU: builds, tests, measures, and prints one table.
#
#   scripts/gpu/accept.sh OUT [--parts AB] [--dry-run] [--wheels FOLDER]
#
# Needs torch built with CUDA, nvcc and pytest; no network and no fairseq. PYTHON names the
# interpreter (default: python3). scripts/gpu/README.md says what the parts are.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
exec "${PYTHON:-python3}" scripts/gpu/accept.py "$@"
