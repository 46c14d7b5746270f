"""Measures one cell, in a process that does nothing else."""

from __future__ import annotations

import logging
import statistics
import time
from argparse import Namespace
from collections import defaultdict
from collections.abc import Callable
from datetime import datetime, timezone
from typing import Any

import torch
from fairseq import utils
from fairseq.models import BaseFairseqModel
from fairseq.sequence_generator import SequenceGenerator
from torch import Tensor, nn

from benchmarks.memory import may_run_out, memory_of
from common.measurements import Spy, machine, storages
from el_attention.fairseq_plugin.decoding import DecodingState
from research.tables.cells import CAPPED, Job
from research.tables.inputs import Inputs, load
from research.tables.quality import score
from research.tables.search import RESOLUTION, largest_batch
from research.tables.systems import build_generator, encoder_attentions

OUT_OF_MEMORY = "out of memory"
MEASURED = "measured"

Result = dict[str, Any]


def measure(job: Job) -> Result:
    """Measures a cell.

    Returns:
        JSON with "settings", "machine", "date", "status" (`MEASURED` or `OUT_OF_MEMORY`) and, if
        measured, the figures: see `_speed`, `_memory` and `_grown`.

    Raises:
        Exception: whatever goes wrong, other than memory that does not suffice.
    """
    logging.disable(logging.INFO)
    result: Result = {
        "settings": job.settings(),
        "machine": machine(),
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "status": OUT_OF_MEMORY,
    }
    with torch.no_grad(), may_run_out():
        run = _Run(job)
        figures = {"memory": _memory, CAPPED: _grown}.get(job.cell.table, _speed)
        result |= figures(run) or {}
    return result


class _Run:
    """A cell's model and sentences, on its device."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.device = torch.device(job.profile.device)
        self.memory = memory_of(self.device, job.profile.limit(job.cell))
        self.inputs: Inputs = load(job)
        self.model: BaseFairseqModel = self.inputs.model.to(
            self.device, getattr(torch, job.cell.dtype)
        )
        self.options = job.generation()
        self.model.prepare_for_inference_(
            Namespace(generation=Namespace(beam=self.options["beam"]), common_eval=Namespace())
        )
        for module in self.model.modules():
            # fairseq 0.12.2's fast path cannot handle padding with today's torch.
            if hasattr(module, "can_use_fastpath"):
                module.can_use_fastpath = False
        # What is loaded, compiled or started at the first use, padding's included, is no memory of
        # a batch.
        self.longest(1)
        padded = self.inputs.collate([self.inputs.sources[0], self.inputs.sources[-1]])
        self.generate(self.generator(), self.on_device(padded))
        self.memory.start()

    def generator(self, **options: Any) -> SequenceGenerator:
        """The generator of the cell's system; `options` replace those of the job."""
        return build_generator(
            self.job.cell.system, self.model, self.inputs.task, {**self.options, **options}
        )

    def longest(self, batch: int) -> Any:
        """Generates the longest hypotheses from the longest sources: the worst for memory."""
        generator = self.generator(min_len=self.options["max_len_b"])
        sample = self.inputs.longest(batch, self.job.profile.task(self.job.cell).limit)
        return self.generate(generator, self.on_device(sample))

    def generate(self, generator: SequenceGenerator, sample: dict[str, Any]) -> Any:
        """Generates for a batch: the hypotheses of each sentence, the best first."""
        prefix = sample.get("prefix_tokens")
        return self.inputs.task.inference_step(
            generator, [self.model], sample, prefix_tokens=prefix
        )

    def on_device(self, sample: dict[str, Any]) -> dict[str, Any]:
        """A sample where the model is."""
        return utils.apply_to_sample(lambda tensor: tensor.to(self.device), sample)

    def synchronize(self) -> None:
        """Waits for the GPU."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def _speed(run: _Run) -> Result | None:
    """Speed at the largest batch, or at the cell's own.

    Returns:
        "batch": sentences; "bounded": whether larger batches were left untried for want of
        sentences; "sentences"; "seconds": of each round, for all sentences, without loading and
        post-processing; "samples_per_second": of the median round; "peak_bytes"; "hypotheses": of
        each sentence, score and tokens; "scores": ROUGE, if there are references; "parts":
        seconds by part of a generation, for the cells whose batch is fixed. None: not a single
        sentence fits.
    """
    job = run.job
    batch = job.profile.batch(job.cell)
    sentences = len(run.inputs.sources)

    def fits(size: int) -> bool:
        with may_run_out() as outcome:
            run.longest(size)
        return not outcome.ran_out

    searched = batch is None
    if batch is not None and batch > sentences:
        raise ValueError(f"sentences: expected at least the batch, {batch}, got {sentences}")
    if batch is None:
        batch = largest_batch(fits, sentences)
    elif not fits(batch):
        batch = 0
    while batch > 0:
        with may_run_out():
            return _timed(run, batch) | {"bounded": searched and batch == sentences}
        # At the edge, what earlier batches have freed may lie in pieces.
        batch = batch - max(1, int(batch * RESOLUTION)) if searched else 0
    return None


def _timed(run: _Run, batch: int) -> Result:
    run.memory.reset_peak()
    samples = [run.on_device(sample) for sample in run.inputs.batches(batch)]
    generator = run.generator()
    run.generate(generator, samples[-1])  # what is done once is done now
    sentences = len(run.inputs.sources)
    seconds = []
    for _ in range(run.job.profile.rounds):
        best: list[tuple[Tensor, Tensor]] = []
        run.synchronize()
        start = time.perf_counter()
        for sample in samples:
            best += _best(run.generate(generator, sample))
        run.synchronize()
        seconds.append(time.perf_counter() - start)
    result = {
        "status": MEASURED,
        "batch": batch,
        "sentences": sentences,
        "seconds": seconds,
        "samples_per_second": sentences / statistics.median(seconds),
        "peak_bytes": run.memory.peak(),
        "hypotheses": _numbers(best),
    }
    source = run.job.source
    if source is not None and source.pieces is not None and run.inputs.references is not None:
        result["scores"] = score(run.inputs, [tokens for _, tokens in best], source.pieces)
    if run.job.cell.batch is not None:
        result["parts"] = _parts(run, samples[0])
    return result


def _grown(run: _Run) -> Result | None:
    """Batches of 1, 2, 4 and so on, up to the number of sentences, until memory runs out.

    Returns:
        "batches": of those that fit, "batch", "seconds" of each round, "samples_per_second" of the
        median round and "peak_bytes"; "hypotheses": of each sentence of the last of them, score
        and tokens. None: not a single sentence fits.
    """
    batches: list[Result] = []
    best: list[tuple[Tensor, Tensor]] = []
    batch = 1
    with may_run_out():
        while batch <= run.job.profile.sentences:
            run.memory.reset_peak()
            seconds = []
            for _ in range(run.job.profile.rounds):
                run.synchronize()
                start = time.perf_counter()
                fitting = _best(run.longest(batch))
                run.synchronize()
                seconds.append(time.perf_counter() - start)
            best = fitting
            batches.append(
                {
                    "batch": batch,
                    "seconds": seconds,
                    "samples_per_second": batch / statistics.median(seconds),
                    "peak_bytes": run.memory.peak(),
                }
            )
            batch *= 2
    if not batches:
        return None
    return {"status": MEASURED, "batches": batches, "hypotheses": _numbers(best)}


def _best(found: Any) -> list[tuple[Tensor, Tensor]]:
    """Score and tokens of the best hypotheses; no more, for they hold attention weights as well."""
    return [(hypotheses[0]["score"], hypotheses[0]["tokens"]) for hypotheses in found]


def _numbers(best: list[tuple[Tensor, Tensor]]) -> list[list[float]]:
    return [[float(score), *tokens.tolist()] for score, tokens in best]


def _memory(run: _Run) -> Result:
    """Bytes of states after the first steps.

    Returns:
        "input_state_bytes": what encoder-decoder attention reads; "state_bytes": all that is kept
        between steps; "peak_bytes"; "batch".
    """
    job = run.job
    batch = job.profile.batch(job.cell)
    assert batch is not None
    run.memory.reset_peak()
    generator = run.generator(max_len_b=2, min_len=2)
    run.model.decoder.forward = spy = _InputSpy(run.model)
    sample = run.on_device(run.inputs.longest(batch, job.profile.task(job.cell).limit))
    run.generate(generator, sample)
    return {
        "status": MEASURED,
        "batch": batch,
        "input_state_bytes": spy.input_peak,
        "state_bytes": spy.peak,
        "peak_bytes": run.memory.peak(),
    }


class _InputSpy(Spy):
    """Also records the bytes that encoder-decoder attention reads.

    Attributes:
        input_peak: the largest sum over the steps so far.
    """

    def __init__(self, model: BaseFairseqModel) -> None:
        super().__init__(model.decoder.forward, model)
        self.input_peak = 0
        self._attentions = encoder_attentions(model)

    def __call__(
        self,
        tokens: Tensor,
        encoder_out: dict[str, Any] | None = None,
        incremental_state: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> Any:
        """Decodes one step, then measures what is kept for the next."""
        result = super().__call__(tokens, encoder_out, incremental_state, **kwargs)
        shared = DecodingState.find(incremental_state)
        kept: list[Any] = []
        if shared is not None:
            kept += [cache.segments for cache in shared.states.cross_caches.values()]
        for attention in self._attentions:
            buffer = attention._get_input_buffer(incremental_state)
            kept.append([buffer.get("prev_key"), buffer.get("prev_value")])
        self.input_peak = max(self.input_peak, sum(storages(kept).values()))
        return result


def _parts(run: _Run, sample: dict[str, Any]) -> dict[str, float]:
    """Seconds of one batch by what they are spent on; waits for the GPU at every boundary."""
    generator = run.generator()
    ensemble, decoder, watch = generator.model, run.model.decoder, _Stopwatch(run)
    ensemble.forward_encoder = watch.timed("encoder", ensemble.forward_encoder)
    decoder.forward = watch.timed("decoder", decoder.forward)
    for name in ("reorder_encoder_out", "reorder_incremental_state"):
        setattr(ensemble, name, watch.timed("reordering", getattr(ensemble, name)))
    watch.module("vocabulary", decoder.output_projection)
    for layer in decoder.layers.children():
        watch.module("self-attention", layer.self_attn)
        watch.module("encoder-decoder attention", layer.encoder_attn)
    watch.timed("total", run.generate)(generator, sample)
    seconds = watch.seconds
    attention = ("self-attention", "encoder-decoder attention")
    layers = seconds["decoder"] - sum(seconds[part] for part in (*attention, "vocabulary"))
    search = seconds["total"] - sum(seconds[p] for p in ("encoder", "decoder", "reordering"))
    return {
        "encoder": seconds["encoder"],
        **{part: seconds[part] for part in attention},
        "feed-forward, norms, embeddings": layers,
        "vocabulary": seconds["vocabulary"],
        "reordering": seconds["reordering"],
        "search": search,
    }


class _Stopwatch:
    """Adds up seconds by part.

    Attributes:
        seconds: so far.
    """

    def __init__(self, run: _Run) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self._run = run

    def timed(self, part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """Returns `function`, its time counted."""

        def timed(*args: Any, **kwargs: Any) -> Any:
            start = self._now()
            result = function(*args, **kwargs)
            self.seconds[part] += self._now() - start
            return result

        return timed

    def module(self, part: str, module: nn.Module) -> None:
        """Counts the time of a module's calls."""
        started: list[float] = []
        module.register_forward_pre_hook(lambda *_: started.append(self._now()))

        def stop(*_: Any) -> None:
            self.seconds[part] += self._now() - started.pop()

        module.register_forward_hook(stop)

    def _now(self) -> float:
        self._run.synchronize()
        return time.perf_counter()
