"""The fitted constants of the cost model, and those for rates that were measured."""

from el_attention.cost.timing import Rates

# Fitted by `python -m research.cost_model --fit` on the paper's beam-search table alone (V100,
# PyTorch of 2020): least squares on the logarithms of its ten ratios and twenty speeds; ratios
# alone leave a common factor of all rates open. A share of 1 is a bound, not a measurement.
FITTED = Rates(half=0.55, single=1.0, stream=0.558, operation_seconds=21.1e-6)

# For devices whose rates are what software was measured to reach. On a CPU calls are no time of
# their own: the device does not work beside the host. Small products: 12 ms for the expansions of
# a step of 1.8 GFLOP where a large product reached 200 GFLOP/s (BART base, 128 rows).
MEASURED = Rates(half=1.0, single=1.0, stream=1.0, operation_seconds=0.0, batched=0.75)
