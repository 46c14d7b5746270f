"""Models and sentences: random ones of given sizes, or a checkpoint and its test data."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Sequence
from itertools import takewhile
from pathlib import Path
from typing import Any, NamedTuple

import torch
from fairseq import checkpoint_utils, models
from fairseq.data import data_utils
from fairseq.models import BaseFairseqModel
from fairseq.tasks import FairseqTask
from torch import Tensor

import research.paper_figures as paper
from benchmarks.random_task import RandomTask, make_decisive
from common.lines import read_lines
from el_attention.cost import Architecture
from research.tables.cells import Job, Source

# fairseq's architectures of the paper's models; sizes are given beside them.
ARCHITECTURES = {
    "transformer": "transformer_vaswani_wmt_en_de_big",
    "bart.large": "bart_large",
    "gpt-2.small": "transformer_lm_gpt2_small",
    "gpt-2.medium": "transformer_lm_gpt2_small",
}
POSITIONS = 1024


class Inputs(NamedTuple):
    """What a cell generates with and from.

    Attributes:
        task: builds generators.
        model: in eval mode, on the CPU, float32.
        sources: int64 [length] each, the longest first; end of sentence last, but for prompts.
        prompts: whether sources are prompts of a language model.
        begin: tokens that every hypothesis begins with.
        references: text of the target of each source, if there is text.
    """

    task: FairseqTask
    model: BaseFairseqModel
    sources: list[Tensor]
    prompts: bool
    begin: tuple[int, ...] = ()
    references: list[str] | None = None

    def longest(self, batch: int, length: int) -> dict[str, Any]:
        """A batch of random sources of `length` tokens each: the worst case for memory."""
        return self.collate(_random_sources(self.task, [length] * batch, self.prompts))

    def batches(self, size: int) -> list[dict[str, Any]]:
        """All sentences, in order, in batches of similar length."""
        starts = range(0, len(self.sources), size)
        return [self.collate(self.sources[start : start + size]) for start in starts]

    def collate(self, sources: Sequence[Tensor]) -> dict[str, Any]:
        """Pads sources to a batch: on the left, prompts on the right."""
        pad = self.task.source_dictionary.pad()
        lengths = torch.tensor([len(source) for source in sources])
        tokens = data_utils.collate_tokens(sources, pad, left_pad=not self.prompts)
        prefix = tokens if self.prompts else tokens.new_tensor([self.begin] * len(sources))
        return {
            "net_input": {"src_tokens": tokens, "src_lengths": lengths},
            "prefix_tokens": prefix if prefix.numel() else None,
        }


def load(job: Job) -> Inputs:
    """Returns model and sentences of a job.

    Raises:
        ValueError: if the checkpoint is of another kind, the test split is empty or has another
            number of references.
    """
    arch, task = job.profile.architecture(job.cell), job.profile.task(job.cell)
    if job.source is not None:
        return _from_checkpoint(job, task)
    torch.manual_seed(0)
    random_task = RandomTask(arch.vocabulary - RandomTask(0).symbols.nspecial)
    model = _random_model(job.cell.arch, arch, random_task)
    spread = torch.linspace(1.5, 0.5, job.profile.sentences)
    lengths = (spread * task.mean).long().clamp(2, task.limit).tolist()
    prompts = job.cell.is_language_model
    return Inputs(random_task, model, _random_sources(random_task, lengths, prompts), prompts)


def _random_sources(task: FairseqTask, lengths: Sequence[int], prompts: bool) -> list[Tensor]:
    symbols = task.source_dictionary
    generator = torch.Generator().manual_seed(1)
    sources = []
    for length in lengths:
        words = torch.randint(symbols.nspecial, len(symbols), (length,), generator=generator)
        if not prompts:
            words[-1] = symbols.eos()
        sources.append(words)
    return sources


def _random_model(name: str, arch: Architecture, task: RandomTask) -> BaseFairseqModel:
    decoder, tied = arch.decoder, arch.embedding_tables == 1
    args = Namespace(
        arch=ARCHITECTURES[name],
        max_source_positions=POSITIONS,
        max_target_positions=POSITIONS,
        tokens_per_sample=POSITIONS,
        share_decoder_input_output_embed=tied,
        decoder_input_dim=decoder.width,
        decoder_output_dim=decoder.width,
    )
    for side, stack in (("encoder", arch.encoder), ("decoder", decoder)):
        if stack is not None:
            setattr(args, f"{side}_layers", stack.layers)
            setattr(args, f"{side}_embed_dim", stack.width)
            setattr(args, f"{side}_ffn_embed_dim", stack.ffn)
            setattr(args, f"{side}_attention_heads", stack.heads)
    models.ARCH_CONFIG_REGISTRY[args.arch](args)
    model = models.build_model(args, task).eval()
    make_decisive(model, decoder.width)
    return model


def _from_checkpoint(job: Job, lengths: paper.Task) -> Inputs:
    assert job.source is not None
    prompts, folder = job.cell.is_language_model, job.source.data
    overrides: dict[str, Any] = {"data": folder}
    names = ["test"]
    if not prompts:
        languages = data_utils.infer_language_pair(folder)
        overrides |= dict(zip(("source_lang", "target_lang"), languages, strict=True))
        names = ["test.{}-{}.{}".format(*languages, language) for language in languages]
    (model,), _, task = checkpoint_utils.load_model_ensemble_and_task(
        [job.source.checkpoint], arg_overrides=overrides
    )
    if (getattr(model, "encoder", None) is None) != prompts:
        kind = "a language model" if prompts else "an encoder-decoder model"
        raise ValueError(f"{job.source.checkpoint}: expected {kind}, got {type(model).__name__}")
    symbols = task.source_dictionary
    texts, *targets = (
        data_utils.load_indexed_dataset(f"{folder}/{name}", symbols) for name in names
    )
    if not texts:
        raise ValueError(f"{folder}/{names[0]}: expected sentences, found none")
    # Evenly spaced, so that fewer sentences are a sample of all.
    chosen = range(0, len(texts), max(1, len(texts) // job.profile.sentences))
    numbers = [n for n in chosen[: job.profile.sentences] if len(texts[n]) > 1]
    eos = symbols.eos()
    whole = {n: texts[n].long() for n in numbers}
    if prompts:
        whole = {n: text[:-1] if int(text[-1]) == eos else text for n, text in whole.items()}
    end = _common_end([*whole.values()]) if prompts else torch.tensor([eos])
    sources = {n: _cut(text, lengths.limit, end) for n, text in whole.items()}
    numbers.sort(key=lambda n: len(sources[n]), reverse=True)
    # BART's targets begin with <s>, which is given to it, as in its own interface.
    bos = (symbols.bos(),)
    begins = all(
        target is not None and int(target[n][0]) in bos for target in targets for n in numbers
    )
    return Inputs(
        task,
        model.eval(),
        [sources[n] for n in numbers],
        prompts,
        begin=bos if targets and begins else (),
        references=_references(job.source, len(texts), numbers),
    )


def _common_end(prompts: Sequence[Tensor]) -> Tensor:
    """What all prompts end with, such as "TL;DR:"; nothing if there is but one."""
    backwards = zip(*(reversed(prompt.tolist()) for prompt in prompts), strict=False)
    same = [words[0] for words in takewhile(lambda words: len(set(words)) == 1, backwards)]
    return torch.tensor(same[::-1] if len(prompts) > 1 else [], dtype=torch.int64)


def _cut(source: Tensor, limit: int, end: Tensor) -> Tensor:
    """At most `limit` tokens of a source, of which the last are `end`, as before."""
    if len(source) <= limit:
        return source
    return torch.cat([source[: max(0, limit - len(end))], end[-limit:]])


def _references(source: Source, count: int, numbers: Sequence[int]) -> list[str] | None:
    """The references of the sentences `numbers` of `count`."""
    if source.references is None:
        return None
    lines = read_lines(Path(source.references))
    if len(lines) != count:
        raise ValueError(
            f"{source.references}: expected a line for each of {count} sentences, got {len(lines)}"
        )
    return [lines[n] for n in numbers]
