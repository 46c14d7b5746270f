"""States of a generation: one tree of rows for all layers, and the rows of each attention."""

from el_attention.state.cache import Payload, RowCache
from el_attention.state.states import Source, States
from el_attention.state.tree import BeamTree, SlotMapping, View, capacity

__all__ = ["BeamTree", "Payload", "RowCache", "SlotMapping", "Source", "States", "View", "capacity"]
