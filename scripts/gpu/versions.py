#!/usr/bin/env python3
"""Prints what a figure must name: card, driver, CUDA, torch, Python."""

from __future__ import annotations

import platform
import shutil
import subprocess

import torch


def said_by(*command: str) -> str:
    """The output of a command, or that it is not there."""
    if shutil.which(command[0]) is None:
        return f"no {command[0]}"
    done = subprocess.run(command, capture_output=True, text=True)
    return (done.stdout + done.stderr).strip()


def main() -> None:
    """Command line."""
    query = "--query-gpu=name,driver_version,memory.total,clocks.max.sm,clocks.max.mem"
    print(said_by("nvidia-smi", query, "--format=csv,noheader"))
    print(said_by("nvcc", "--version"))
    card = "no GPU"
    if torch.cuda.is_available():
        properties = torch.cuda.get_device_properties(0)
        card = f"{properties.name}, sm_{properties.major}{properties.minor}"
        card += f", {properties.multi_processor_count} multiprocessors"
    print(
        f"summary: {card}; torch {torch.__version__}, CUDA {torch.version.cuda}, "
        f"Python {platform.python_version()}"
    )


if __name__ == "__main__":
    main()
