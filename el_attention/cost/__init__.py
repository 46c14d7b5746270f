"""A cost model of generation: memory and time from shapes, for planning and for predictions.

Every time it gives is an estimate; `scripts/research/COST_MODEL.md` says how far it can be
trusted. It is plain arithmetic and imports neither torch nor fairseq.
"""

from el_attention.cost.architecture import ARCHITECTURES, Architecture, Stack
from el_attention.cost.calibration import FITTED, MEASURED
from el_attention.cost.device import CPU, DEVICES, GIB, Device
from el_attention.cost.memory import (
    FRAGMENTATION,
    PART_TOKENS,
    PROMPT_LOGITS,
    Memory,
    input_states,
    largest_batch,
    memory_of,
    usable,
)
from el_attention.cost.planning import (
    SELF,
    SOURCE,
    Candidate,
    best,
    candidate,
    candidates,
    largest_batch_in,
    largest_fitting,
    ranges,
    system_of,
)
from el_attention.cost.system import System
from el_attention.cost.timing import CostModel, Rates, Seconds
from el_attention.cost.workload import Workload

__all__ = [
    "ARCHITECTURES",
    "CPU",
    "DEVICES",
    "FITTED",
    "FRAGMENTATION",
    "GIB",
    "MEASURED",
    "PART_TOKENS",
    "PROMPT_LOGITS",
    "SELF",
    "SOURCE",
    "Architecture",
    "Candidate",
    "CostModel",
    "Device",
    "Memory",
    "Rates",
    "Seconds",
    "Stack",
    "System",
    "Workload",
    "best",
    "candidate",
    "candidates",
    "input_states",
    "largest_batch",
    "largest_batch_in",
    "largest_fitting",
    "memory_of",
    "ranges",
    "system_of",
    "usable",
]
