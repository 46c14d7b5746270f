"""A cost model of generation: memory and time from shapes, for planning and for predictions.

Every time it gives is an estimate; `scripts/research/COST_MODEL.md` says how far it can be
trusted. It is plain arithmetic and imports neither torch nor fairseq.
"""

from el_attention.cost.architecture import ARCHITECTURES, Architecture, Stack
from el_attention.cost.device import CPU, DEVICES, GIB, Device
from el_attention.cost.memory import (
    FRAGMENTATION,
    PART_TOKENS,
    PROMPT_LOGITS,
    Memory,
    input_states,
    memory_of,
    narrow_weights,
    usable,
)
from el_attention.cost.plans import Plans
from el_attention.cost.timing import CostModel, Rates, Seconds
from el_attention.cost.workload import Workload

__all__ = [
    "ARCHITECTURES",
    "CPU",
    "DEVICES",
    "FRAGMENTATION",
    "GIB",
    "PART_TOKENS",
    "PROMPT_LOGITS",
    "Architecture",
    "CostModel",
    "Device",
    "Memory",
    "Plans",
    "Rates",
    "Seconds",
    "Stack",
    "Workload",
    "input_states",
    "memory_of",
    "narrow_weights",
    "usable",
]
