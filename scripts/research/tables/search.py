"""The largest batch that fits."""

from __future__ import annotations

from collections.abc import Callable

# Bisection stops when the batch that fits and the one that does not are this close, as a share of
# the former: the last few sentences of a batch change its speed by little.
RESOLUTION = 1 / 8


def largest_batch(fits: Callable[[int], bool], limit: int) -> int:
    """Searches by doubling, then by bisection.

    Args:
        fits: whether a batch of so many sentences fits; false for all that are larger than one for
            which it is false. Called once for each size that is tried.
        limit: the largest batch to try, at least 1.

    Returns:
        The largest size for which `fits` was true: `limit` itself, or within `RESOLUTION` of the
        largest there is; 0 if none is.

    Raises:
        ValueError: if `limit` is less than 1.
    """
    if limit < 1:
        raise ValueError(f"limit: expected at least 1, got {limit}")
    good, bad = 0, limit + 1
    size = 1
    while good < size:
        if fits(size):
            good, size = size, min(2 * size, limit)
        else:
            bad = size
            break
    while bad - good > max(1, int(good * RESOLUTION)):
        size = (good + bad) // 2
        if fits(size):
            good = size
        else:
            bad = size
    return good
