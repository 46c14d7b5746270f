"""What fairseq's program is asked to do, which it tells models, but not their task."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from el_attention.fairseq_plugin.unknown_words import prepare_replacement
from el_attention.specialize import SameName

if TYPE_CHECKING:
    from fairseq.models import BaseFairseqModel as _Model
else:
    _Model = object


@dataclass
class Run:
    """What a task and the models that it has built share.

    Attributes:
        cfg: fairseq's whole configuration, once a model is prepared for inference; in training and
            before, None.
    """

    cfg: Any = None


class ELInferenceModel(SameName, _Model):
    """A model that tells its task what it is prepared for."""

    el_run: Run

    def prepare_for_inference_(self, cfg: Any) -> None:
        """Prepares the model as fairseq does.

        Raises:
            ValueError: if --replace-unk cannot be followed.
        """
        prepare_replacement(cfg)
        self.el_run.cfg = cfg
        super().prepare_for_inference_(cfg)
