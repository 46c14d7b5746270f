#!/usr/bin/env python3
"""Compiles the operators in place, for the GPU of this machine, and says what was built.

python scripts/gpu/build.py
python scripts/gpu/build.py --dry-run   # asks setup.py what it would do; compiles nothing
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[2]


def main() -> None:
    """Command line."""
    if "--dry-run" in sys.argv:
        subprocess.run(
            [sys.executable, "setup.py", "--name"],
            cwd=ROOT,
            check=True,
            env=os.environ | {"EL_ATTENTION_CUDA": "0"},
        )
        print("summary: setup.py answers")
        return
    if not torch.cuda.is_available():
        sys.exit(f"summary: there is no GPU that torch {torch.__version__} can use")
    major, minor = torch.cuda.get_device_capability()
    started = time.monotonic()
    subprocess.run(
        [sys.executable, "setup.py", "build_ext", "--inplace"],
        cwd=ROOT,
        check=True,
        env=os.environ | {"TORCH_CUDA_ARCH_LIST": f"{major}.{minor}"},
    )
    print(f"summary: built for sm_{major}{minor} in {time.monotonic() - started:.0f} s")


if __name__ == "__main__":
    main()
