"""States of a generation: one tree of rows for all layers, one pool of payload for each."""

from el_attention.state.pool import Payload, StatePool
from el_attention.state.states import Source, States
from el_attention.state.tree import BeamTree, Placement, View, capacity

__all__ = ["BeamTree", "Payload", "Placement", "Source", "StatePool", "States", "View", "capacity"]
