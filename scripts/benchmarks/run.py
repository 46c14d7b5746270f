"""Measures a case: systems take turns, round after round."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.cases import Case
from benchmarks.systems import Hypotheses, Outcome
from benchmarks.worker import Worker

# Whose hypotheses are those of the others: the first of these that is measured.
REFERENCES = ("fairseq", "huggingface")

Result = dict[str, Any]


def measure(
    case: Case,
    systems: Sequence[str],
    folder: Path,
    rounds: int,
    once: float,
    threads: int,
    out: Callable[[str], None] = print,
) -> Result:
    """Measures a case with each system.

    Args:
        case: to measure.
        systems: keys of `systems.SYSTEMS`.
        folder: with the checkpoint of the case's model.
        rounds: the number of turns of each system.
        once: seconds; a system whose generation takes longer has one turn only.
        threads: the number of threads of each system.
        out: takes lines on what happens.

    Returns:
        JSON: by system, "first", "step" and "seconds" of each round, "peak" bytes, "predicted",
        bytes by part and "peak" of them, for systems that predict it, and, if one of `REFERENCES`
        is among the systems, "score_gap" and "differing": see `score_gap` and `differing`.
    """
    reference = next((name for name in REFERENCES if name in systems), None)
    with ExitStack() as stack:
        workers = [stack.enter_context(Worker(name, case, folder, threads)) for name in systems]
        for worker in workers:
            worker.wait()
        results: Result = {name: {"first": [], "step": [], "seconds": []} for name in systems}
        warm = {worker.name: _tokens(worker, case.small()) for worker in workers}
        for worker in workers:
            worker.forget(case)
        last: dict[str, Outcome] = {}
        for turn in range(rounds):
            for worker in workers:
                result = results[worker.name]
                if turn > 0 and result["seconds"][0] > once:
                    continue
                outcome, first, step = timed(worker, case)
                result["seconds"].append(outcome.seconds)
                result["first"].append(first)
                result["step"].append(step)
                last[worker.name] = outcome
                out(f"  {worker.name}: {outcome.seconds:.2f} s, {1000 * step:.1f} ms per step")
        for worker in workers:
            result = results[worker.name]
            result["peak"], predicted = worker.memory(case)
            if predicted is not None:
                result["predicted"] = {**predicted.table(), "peak": predicted.peak}
            if reference is not None:
                result["score_gap"] = score_gap(warm[reference], warm[worker.name])
                result["differing"] = differing(
                    last[reference].hypotheses, last[worker.name].hypotheses
                )
    return results


def timed(worker: Worker, case: Case) -> tuple[Outcome, float, float]:
    """Returns a generation, the seconds until its first step was done, and those of a later one."""
    outcome = worker.generate(case)
    first = outcome.first
    if first is None:
        first = worker.generate(replace(case, steps=1)).seconds
    return outcome, first, (outcome.seconds - first) / (case.steps - 1)


def _tokens(worker: Worker, case: Case) -> Hypotheses:
    """Hypotheses of as many tokens as a case has steps."""
    return worker.scored(replace(case, steps=case.steps + worker.closing))


def score_gap(reference: Hypotheses, mine: Hypotheses) -> float | None:
    """The largest difference between scores of the same hypothesis; None if hypotheses differ.

    The order of a sentence's hypotheses does not count: fairseq's scores include the end of
    sentence when it sorts them.
    """
    largest = 0.0
    for ours, theirs in zip(reference, mine, strict=True):
        ours, theirs = sorted(ours), sorted(theirs)
        if [tokens for tokens, _ in ours] != [tokens for tokens, _ in theirs]:
            return None
        gaps = (abs(a - b) for (_, a), (_, b) in zip(ours, theirs, strict=True))
        largest = max(largest, *gaps)
    return largest


def differing(reference: Hypotheses, mine: Hypotheses) -> int:
    """For how many sentences the hypotheses are others.

    A system that ends no hypothesis has one more token in each: without it, they must be among
    those of the other system.
    """
    count = 0
    for ours, theirs in zip(reference, mine, strict=True):
        shorter, longer = sorted(
            ([tokens for tokens, _ in hypotheses] for hypotheses in (ours, theirs)),
            key=lambda found: len(found[0]),
        )
        steps = len(shorter[0])
        if len(longer[0]) == steps:
            count += longer != shorter
        else:
            count += any(tokens[:steps] not in shorter for tokens in longer)
    return count
