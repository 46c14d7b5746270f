"""What ``el-attention doctor --gpu`` reports: are the compiled operators right on these GPUs?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

import el_attention
from el_attention.ops import check, compiled, extension, trust

HEAD = ("device", "operator", "dtype", "calls", "error", "verdict")


def report(devices: Sequence[torch.device]) -> tuple[str, bool]:
    """Tries every compiled operator in every dtype, with more calls than at first use.

    Args:
        devices: where to try them.

    Returns:
        A table in Markdown, between versions and a verdict, and whether all operators are right.
        An error is the greatest difference from the reference, in percent of what is allowed.
    """
    lines = [
        f"el_attention {el_attention.__version__}, torch {torch.__version__}, "
        f"CUDA {torch.version.cuda}"
    ]
    reason = _unsupported(devices)
    if reason is not None:
        return "\n".join([*lines, f"verdict: nothing was tried, because {reason}"]), False
    lines += [f"{device}: {_name(device)}" for device in devices]
    lines += ["", _row(HEAD), "|---|---|---|---:|---:|---|"]
    faults = 0
    for device in devices:
        for cells in _tried(device):
            faults += cells[-1] != "right"
            lines.append(_row(cells))
    verdict = "all operators are right" if not faults else f"{faults} are WRONG: please report this"
    return "\n".join([*lines, "", f"verdict: {verdict}"]), not faults


def gpus() -> list[torch.device]:
    """The GPUs that torch can use."""
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    return [torch.device("cuda", index) for index in range(count)]


def _unsupported(devices: Sequence[torch.device]) -> str | None:
    """Returns why nothing can be tried, or None."""
    if extension.unsupported is not None:
        return f"the compiled operators are {extension.unsupported}"
    if not devices:
        return f"there is no GPU that torch {torch.__version__} can use"
    return None


def _name(device: torch.device) -> str:
    if device.type != "cuda":
        return device.type
    properties = torch.cuda.get_device_properties(device)
    return f"{properties.name}, sm_{properties.major}{properties.minor}"


def _tried(device: torch.device) -> Iterator[tuple[str, ...]]:
    if device.type == "cuda" and (reason := trust.unsupported_gpu(device.index)):
        yield str(device), "all", "all", "0", "", f"cannot run: {reason}"
        return
    for dtype in compiled.DTYPES:
        for operator in check.OPERATORS:
            outcome = check.run(operator, device, dtype, check.MANY)
            yield (
                str(device),
                operator,
                str(dtype).removeprefix("torch."),
                str(outcome.calls),
                f"{outcome.error:.1%}" if outcome.fault is None else "",
                "right" if outcome.fault is None else f"WRONG: {_one_line(outcome.fault)}",
            )


def _one_line(text: str) -> str:
    return " ".join(text.replace("|", "/").split())


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
