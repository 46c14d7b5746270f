from typing import TypedDict

class BuildInformation(TypedDict):
    torch: str
    instruction_set: str  # in use on this CPU; empty where it has none of those built for
    threads: bool
    cuda: str | None
    gpu_architectures: list[int]

def build_information() -> BuildInformation: ...
def reason_against_gpu(device: int) -> str: ...  # empty where kernels can run
