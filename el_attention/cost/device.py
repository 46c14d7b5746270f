"""Sizes and rates of devices, from their data sheets."""

from __future__ import annotations

from dataclasses import dataclass

ITEM_BYTES = {"float64": 8, "float32": 4, "float16": 2, "bfloat16": 2}
GIB = 2**30


@dataclass(frozen=True)
class Device:
    """A device as its data sheet has it; what software reaches of it is in `Rates`.

    Attributes:
        name: what users call it.
        memory: bytes that processes can allocate.
        bandwidth: the bandwidth of its memory, bytes/s.
        flops: FLOP/s of dense matrix products (two per multiply-add), by dtype.
    """

    name: str
    memory: float
    bandwidth: float
    flops: dict[str, float]

    def peak(self, dtype: str) -> float:
        """Returns the FLOP/s of `dtype`.

        Raises:
            ValueError: if the device has no rate for it.
        """
        if dtype not in self.flops:
            raise ValueError(f"{self.name}: expected a dtype of {[*self.flops]}, got {dtype!r}")
        return self.flops[dtype]


# Dense tensor-core rates with float32 accumulation; float32 without TF32, as PyTorch has it by
# default. Memory as nvidia-smi reports it.
V100 = Device("V100 PCIe 16 GB", 16_160 * 2**20, 900e9, {"float32": 14e12, "float16": 112e12})
A100 = Device(
    "A100 SXM 80 GB",
    81_920 * 2**20,
    2_039e9,
    {"float32": 19.5e12, "float16": 312e12, "bfloat16": 312e12},
)
H100 = Device(
    "H100 SXM 80 GB",
    81_559 * 2**20,
    3_350e9,
    {"float32": 67e12, "float16": 989e12, "bfloat16": 989e12},
)
RTX_4090 = Device(
    "RTX 4090 24 GB",
    24_564 * 2**20,
    1_008e9,
    {"float32": 82.6e12, "float16": 165e12, "bfloat16": 165e12},
)
DEVICES = {device.name: device for device in (V100, A100, H100, RTX_4090)}
# Measured: 2 cores of an AMD EPYC with AVX2 (float64: half of float32). What other processors reach
# differs, but the ratio of arithmetic to bandwidth, on which plans hang, less so.
CPU = Device("CPU, 2 cores", 24 * GIB, 26e9, {"float64": 61e9, "float32": 123e9, "float16": 4.3e9})
