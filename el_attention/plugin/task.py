"""Tasks that convert every model and generator they build."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from el_attention.plugin.specialize import Specialized

if TYPE_CHECKING:
    from fairseq.models import BaseFairseqModel
    from fairseq.sequence_generator import SequenceGenerator
    from fairseq.tasks import FairseqTask as _Base
else:
    _Base = object


class ELTask(Specialized, _Base):
    """A task whose models generate with EL-attention; checkpoints of its original serve it."""

    el_plan: str | None = None

    @property
    def plan(self) -> str:
        """The plan to use: of `convert`, else of the command line, else "auto"."""
        options = getattr(self, "cfg", None) or getattr(self, "args", None)
        return self.el_plan or str(getattr(options, "attention_plan", None) or "auto")

    def __getattr__(self, name: str) -> Any:
        # translation_from_pretrained_bart still reads `args`, which fairseq has renamed to `cfg`.
        if name == "args" and "cfg" in self.__dict__:
            return self.cfg
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def build_model(self, cfg: Any, from_checkpoint: bool = False) -> BaseFairseqModel:
        """Builds the model as the original task does, then converts it.

        fairseq looks for `from_checkpoint` in the signature: with it, options that a checkpoint of
        another version holds and this one lacks are dropped.
        """
        from el_attention.plugin.convert import convert

        return convert(super().build_model(cfg, from_checkpoint), self.plan)

    def build_generator(self, models: Any, *args: Any, **kwargs: Any) -> SequenceGenerator:
        """Builds the generator as the original task does, then converts it.

        What is no sequence generator (a scorer of references) stays as it is.
        """
        from fairseq.sequence_generator import SequenceGenerator

        from el_attention.plugin.convert import convert

        generator = super().build_generator(models, *args, **kwargs)
        return (
            convert(generator, self.plan) if isinstance(generator, SequenceGenerator) else generator
        )
