from typing import TypedDict

class BuildInformation(TypedDict):
    torch: str
    instruction_sets: list[str]
    threads: bool
    cuda: str | None
    gpu_architectures: list[int]

def build_information() -> BuildInformation: ...
