"""Batches of texts of similar lengths."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping


def by_length(
    lengths: Mapping[int, int], may_join: Callable[[int, int, int], bool]
) -> Iterator[list[int]]:
    """Yields batches of texts, the longest texts first.

    Args:
        lengths: tokens of each text, by its place.
        may_join: says whether a text may join a batch, of which it is given the number of texts and
            the tokens of the longest one, and the tokens of the text.
    """
    batch: list[int] = []
    for place in sorted(lengths, key=lambda place: (-lengths[place], place)):
        if batch and not may_join(len(batch), lengths[batch[0]], lengths[place]):
            yield batch
            batch = []
        batch.append(place)
    if batch:
        yield batch
