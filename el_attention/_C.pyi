from collections.abc import Iterable, Sequence
from typing import TypedDict

from torch import Tensor

class BuildInformation(TypedDict):
    torch: str
    instruction_set: str  # in use on this CPU; empty where it has none of those built for
    threads: bool
    cuda: str | None
    gpu_architectures: list[int]

def build_information() -> BuildInformation: ...
def unsupported_gpu(device: int) -> str | None: ...  # None where kernels can run
def derivatives_are_on() -> bool: ...

class ShortWaits:
    def __init__(self, threads: int) -> None: ...

class StepRows:
    def __init__(
        self, beam: int, mappings: Iterable[object], own: object, source: object
    ) -> None: ...

class DecoderLayer:
    def __init__(self, spec: object, self_expands: bool, cross_expands: bool) -> None: ...
    def step(
        self,
        x: Tensor,
        step: StepRows,
        rows: Sequence[tuple[Tensor, Tensor]],
        bias: Tensor | None,
        source: Sequence[tuple[Tensor, Tensor]],
    ) -> Tensor: ...
