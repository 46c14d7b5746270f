"""A cost model of generation: memory and time from shapes, for planning and for predictions.

Every time it gives is an estimate; `scripts/COST_MODEL.md` says how far it can be trusted. It is
plain arithmetic and imports neither torch nor fairseq.
"""

from el_attention.cost.architecture import ARCHITECTURES, Architecture, Stack
from el_attention.cost.calibration import FITTED
from el_attention.cost.device import DEVICES, GIB, Device
from el_attention.cost.memory import Memory, input_states, largest_batch, memory_of
from el_attention.cost.system import System
from el_attention.cost.timing import CostModel, Rates, Seconds
from el_attention.cost.workload import Workload

__all__ = [
    "ARCHITECTURES",
    "DEVICES",
    "FITTED",
    "GIB",
    "Architecture",
    "CostModel",
    "Device",
    "Memory",
    "Rates",
    "Seconds",
    "Stack",
    "System",
    "Workload",
    "input_states",
    "largest_batch",
    "memory_of",
]
