"""Tasks that convert every model and generator they build, and whose generation is robust."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from el_attention.fairseq_plugin.conversion import convert_generator, convert_model, free_models
from el_attention.fairseq_plugin.every_sentence import EverySentence
from el_attention.fairseq_plugin.hub import of_batch
from el_attention.fairseq_plugin.inference import ELInferenceModel, Run
from el_attention.fairseq_plugin.interactive import ELInteractive, LinesDataset
from el_attention.fairseq_plugin.literals import forget_paths, require_literals
from el_attention.fairseq_plugin.more_options import set_more_options
from el_attention.fairseq_plugin.options import option_of
from el_attention.fairseq_plugin.own_limits import OwnLimitsGenerator
from el_attention.fairseq_plugin.parts import Generator, Results
from el_attention.fairseq_plugin.recording import RecordingGenerator
from el_attention.fairseq_plugin.run_key import run_settings
from el_attention.fairseq_plugin.shards import require_constraints, sharded
from el_attention.fairseq_plugin.splitting import SplittingGenerator
from el_attention.fairseq_plugin.unknown_words import (
    AligningGenerator,
    language_tokens,
    require_original_text,
)
from el_attention.robust.journal import Journal
from el_attention.robust.memory import bytes_of
from el_attention.specialize import Specialized, specialize

if TYPE_CHECKING:
    from fairseq.models import BaseFairseqModel
    from fairseq.tasks import FairseqTask as _Base
else:
    _Base = object


class ELTask(ELInteractive, Specialized, _Base):
    """A task whose models generate with EL-attention; checkpoints of its original serve it."""

    el_plan: str | None = None
    el_memory_budget: int | None = None
    el_models: Sequence[Any] = ()  # that --batch-by-memory makes batches for
    el_journal: Journal | None = None
    el_recorded: Sequence[Any] = ()  # models that the journal is of
    el_run: Run | None = None  # that the models it builds are prepared for
    el_generation: tuple[Any, dict[str, Any]] = (None, {})  # options of the last generator built
    el_source_words: int | None = None

    @property
    def plan(self) -> str:
        """The plan to use: of `convert`, else of the command line, else "auto"."""
        return self.el_plan or str(option_of(self, "attention_plan"))

    @property
    def memory_budget(self) -> int | None:
        """Bytes for generation: of `convert`, else of the command line; None for what is free.

        Raises:
            ValueError: if the option is no size.
        """
        text = option_of(self, "el_memory_budget")
        return self.el_memory_budget or (None if text is None else bytes_of(text))

    def __getattr__(self, name: str) -> Any:
        # translation_from_pretrained_bart still reads `args`, which fairseq has renamed to `cfg`.
        if name == "args" and "cfg" in self.__dict__:
            return self.cfg
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    @classmethod
    def setup_task(cls, cfg: Any, **kwargs: Any) -> ELTask:
        """Sets up the task as the original does.

        Raises:
            ValueError: if an option that fairseq evaluates is no literal.
        """
        require_literals(cfg)
        return super().setup_task(cfg, **kwargs)

    def build_criterion(self, cfg: Any, *args: Any, **kwargs: Any) -> Any:
        """Builds the criterion as the original task does.

        Raises:
            ValueError: if an option that fairseq evaluates is no literal.
        """
        require_literals(cfg)
        return super().build_criterion(cfg, *args, **kwargs)

    def build_model(self, cfg: Any, from_checkpoint: bool = False) -> BaseFairseqModel:
        """Builds the model as the original task does, then converts it.

        fairseq looks for `from_checkpoint` in the signature: with it, options that a checkpoint of
        another version holds and this one lacks are dropped.  Files of embeddings are not read: the
        weights of a checkpoint replace them.

        Raises:
            ValueError: if an option that fairseq evaluates is no literal.
        """
        require_literals(cfg)
        if from_checkpoint:
            forget_paths(cfg)
        model = super().build_model(cfg, from_checkpoint)
        specialize(model, ELInferenceModel).el_run = self._run()
        if option_of(self, "batch_by_memory"):
            self.el_models = [*self.el_models, model]
        convert_model(model, self.plan, self.memory_budget)
        return model

    def build_generator(
        self,
        models: Any,
        args: Any,
        seq_gen_cls: Any = None,
        extra_gen_cls_kwargs: dict[str, Any] | None = None,
        prefix_allowed_tokens_fn: Callable[..., Any] | None = None,
        **kwargs: Any,
    ) -> Generator:
        """Builds the generator as the original task does, then converts it.

        What is no sequence generator (a scorer of references) stays as it is.

        Raises:
            ValueError: if there are no such alignments, an option would have no effect, or its
                value is not one.
        """
        from fairseq.sequence_generator import SequenceGenerator

        from el_attention.fairseq_plugin.generator_options import build_generator, say_cut_beam

        given: dict[str, Any] = {
            "seq_gen_cls": seq_gen_cls,
            "extra_gen_cls_kwargs": extra_gen_cls_kwargs,
            "prefix_allowed_tokens_fn": prefix_allowed_tokens_fn,
        }
        given = {name: value for name, value in given.items() if value is not None}
        self.el_generation = args, {**given, **(extra_gen_cls_kwargs or {})}
        if self.el_source_words is None and self.source_dictionary is not None:
            self.el_source_words = len(self.source_dictionary)
        self._close_journal()
        generator: Generator = build_generator(
            super().build_generator, models, args, **given, **kwargs
        )
        if isinstance(generator, SequenceGenerator):
            convert_generator(generator, self.plan, self.memory_budget)
            self._free_weights(models)
            if self._replaces_unknown_words():
                generator.model.keep_attention = True
        set_more_options(generator, self, args)
        say_cut_beam(generator, args)
        return generator

    def get_batch_iterator(self, dataset: Any, *args: Any, **kwargs: Any) -> Any:
        """Makes batches as the original task does or, with --batch-by-memory, by memory.

        In a generation from a data set every sentence is in a batch, of one shard.

        Raises:
            ValueError: if there is no generation to make batches for, as in training, no such
                shard, or no constraints where they are asked for.
        """
        from el_attention.fairseq_plugin.batching import BatchSizes, DatasetByMemory

        cfg, by_memory = self._run().cfg, option_of(self, "batch_by_memory")
        is_lines = isinstance(dataset, LinesDataset)
        is_loaded = any(dataset is loaded for loaded in self.datasets.values())
        is_generated = cfg is not None and is_loaded
        if is_generated or (cfg is not None and is_lines):
            require_constraints(dataset, cfg)
        if is_generated and cfg.generation.replace_unk is not None:
            require_original_text(dataset)
        if by_memory:
            self._free_weights(self.el_models)
            sizes = BatchSizes(self.el_models, cfg, self.plan, self.memory_budget)
            wrap = partial(DatasetByMemory, sizes=sizes)
            dataset = dataset.around(wrap) if is_lines else wrap(dataset)
        elif is_generated:
            dataset = EverySentence(dataset)
        if is_generated:
            dataset = sharded(dataset, cfg, kwargs.get("num_shards", 1), bool(by_memory))
        return super().get_batch_iterator(dataset, *args, **kwargs)

    def inference_step(
        self, generator: Any, models: Any, sample: dict[str, Any], *args: Any, **kwargs: Any
    ) -> Results:
        """Generates for a batch as the original task does.

        A batch that does not fit in memory is split, and a line of fairseq-interactive that does
        not fit is refused.  With --journal, finished sentences are recorded, and recorded ones
        returned.

        Raises:
            MemoryError: if a single sentence does not fit, but for a line.
            OSError: if the journal cannot be written.
            ValueError: if the journal is of another run.
        """
        if self._replaces_unknown_words():
            generator = AligningGenerator(
                generator, self.source_dictionary, self.target_dictionary, language_tokens(self)
            )
        by_memory = bool(option_of(self, "batch_by_memory"))
        if by_memory:
            generator = OwnLimitsGenerator(generator)
        generator = SplittingGenerator(generator, self.name_of_lines(sample))
        if option_of(self, "journal"):
            # Batches made by memory are others in every run.
            generator = RecordingGenerator(generator, self._open_journal(models), by_memory)
        kwargs = of_batch(sample, kwargs)
        return super().inference_step(generator, models, sample, *args, **kwargs)

    def begin_epoch(self, epoch: int, model: Any) -> None:
        """Begins training, which --journal is not for: the weights change.

        Raises:
            ValueError: if there is a journal.
        """
        if option_of(self, "journal"):
            raise ValueError("--journal: expected a generation, got training")
        super().begin_epoch(epoch, model)

    def _replaces_unknown_words(self) -> bool:
        return getattr(self.el_generation[0], "replace_unk", None) is not None

    def _run(self) -> Run:
        if self.el_run is None:
            self.el_run = Run()
        return self.el_run

    def _free_weights(self, models: Any) -> None:
        """Frees float32 weights where a program, and no hub interface, generates with models."""
        cfg = self._run().cfg
        if cfg is not None and cfg.common_eval.path is not None:
            free_models(models)

    def _open_journal(self, models: Any) -> Journal:
        models = list(models)
        same = [*map(id, models)] == [*map(id, self.el_recorded)]
        if self.el_journal is None or not same:
            self._close_journal()
            settings = run_settings(self, models, *self.el_generation, self._run().cfg)
            self.el_journal = Journal(Path(option_of(self, "journal")), settings)
            self.el_recorded = models
            self._free_weights(models)  # which the settings have read
        return self.el_journal

    def _close_journal(self) -> None:
        if self.el_journal is not None:
            self.el_journal.close()
            self.el_journal, self.el_recorded = None, ()
