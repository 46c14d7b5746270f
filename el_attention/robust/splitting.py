"""Work that is divided where memory does not suffice for all of it at once."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TypeVar

from el_attention.robust.memory import is_out_of_memory, release

logger = logging.getLogger(__name__)

T = TypeVar("T")


def in_parts(
    work: Callable[[range], list[T]],
    number: int,
    size: str,
    unsupported: Callable[[], str | None],
) -> list[T]:
    """Works on sentences at once or, where memory does not suffice, on halves, down to one.

    Args:
        work: takes sentences, some of `range(number)`, and returns a result for each.
        number: the number of sentences.
        size: the size of the work on a sentence, for messages.
        unsupported: says why sentences cannot be worked on apart, or None if they can.

    Returns:
        The results of all sentences, in order.

    Raises:
        MemoryError: if a single sentence does not fit, or sentences that cannot be split.
    """

    def on(part: range) -> list[T]:
        try:
            return work(part)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            if len(part) == 1:
                raise MemoryError(
                    f"out of memory with a single sentence ({size}): {reason}"
                ) from error
            against = unsupported()
            if against is not None:
                raise MemoryError(
                    f"out of memory with {len(part)} sentences ({size}), which cannot be split, "
                    f"because of {against}; {reason}"
                ) from error
        # Only here: before, the error's traceback held the tensors of the attempt.
        release()
        halves = part[: (len(part) + 1) // 2], part[(len(part) + 1) // 2 :]
        logger.warning(
            f"out of memory with {len(part)} sentences ({size}): trying "
            f"{len(halves[0])} and {len(halves[1])} instead; {reason}"
        )
        return [result for half in halves for result in on(half)]

    return on(range(number))
