"""Builds the generator of a task so that every option reaches it, or is refused by its name."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable
from typing import Any

from fairseq.dataclass.configs import GenerationConfig
from fairseq.search import PrefixConstrainedBeamSearch
from fairseq.sequence_scorer import SequenceScorer
from fairseq.tasks import FairseqTask
from fairseq.tasks.translation_from_pretrained_bart import TranslationFromPretrainedBARTTask
from fairseq.tasks.translation_multi_simple_epoch import TranslationMultiSimpleEpochTask

from el_attention.fairseq_plugin.options import changed_options

logger = logging.getLogger(__name__)

# Options that fairseq's sequence generators do not read, by who does.
READ_BY_OTHERS = {
    "iterative refinement": (
        "iter_decode_eos_penalty",
        "iter_decode_max_iter",
        "iter_decode_force_max_iter",
        "iter_decode_with_beam",
        "iter_decode_with_external_reranker",
        "retain_iter_history",
        "print_step",
        "decoding_format",
    ),
    "speech translation": (
        "beam_mt",
        "max_len_a_mt",
        "max_len_b_mt",
        "lenpen_mt",
        "eos_token",
    ),
}


def build_generator(original: Callable[..., Any], models: Any, options: Any, **given: Any) -> Any:
    """Builds what a task's own method builds; options that fairseq's would drop reach it, too.

    Args:
        original: the method, bound to the task.
        models: the ensemble.
        options: fairseq's generation configuration.
        given: those of `seq_gen_cls`, `extra_gen_cls_kwargs` and `prefix_allowed_tokens_fn` that
            are not None.

    Returns:
        A `SequenceGenerator`, a `SequenceScorer`, or what a task of another kind builds.

    Raises:
        ValueError: if there are no such alignments, or an option would have no effect.
    """
    options = with_alignment(options)
    build = _COMPLETE.get(getattr(original, "__func__", None))
    if build is not None:
        generator = build(original.__self__, models, options, **given)  # type: ignore[attr-defined]
        require_effect(generator, models, options, given.get("prefix_allowed_tokens_fn"))
        return generator
    allowed = given.get("prefix_allowed_tokens_fn")
    if (
        allowed is not None
        and "prefix_allowed_tokens_fn" not in inspect.signature(original).parameters
    ):
        # Such a method hands its options on to fairseq's, which finds the function among them.
        del given["prefix_allowed_tokens_fn"]
        options = changed_options(options, prefix_allowed_tokens_fn=allowed)
    return original(models, options, **given)


def with_alignment(options: Any) -> Any:
    """Returns options whose `print_alignment` is one that fairseq knows.

    Raises:
        ValueError: if there are no such alignments.
    """
    alignment = getattr(options, "print_alignment", None)
    if alignment is True:  # of a hub's user; fairseq then builds a generator that fails
        return changed_options(options, print_alignment="hard")
    if alignment and alignment not in ("hard", "soft"):
        raise ValueError(f"print_alignment: expected 'hard' or 'soft', got {alignment!r}")
    return options


def say_cut_beam(generator: Any, options: Any) -> None:
    """Warns where a generator has fewer beams than were asked for: fairseq cuts them silently."""
    asked, used = getattr(options, "beam", None), getattr(generator, "beam_size", None)
    if asked is not None and used is not None and asked > used:
        logger.warning(
            f"--beam {asked}: expected at most {used}, as many as there are tokens beside padding; "
            f"{used} beams are used"
        )


def require_effect(
    generator: Any, models: Any, options: Any, allowed: Callable[..., Any] | None
) -> None:
    """Sees to it that every option has an effect on what was built.

    Args:
        generator: a `SequenceGenerator` or a `SequenceScorer`.
        models: the ensemble.
        options: what it was built from.
        allowed: `prefix_allowed_tokens_fn`, unless it is among the options.

    Raises:
        ValueError: if an option has none.
    """
    for reader, names in READ_BY_OTHERS.items():
        for name in names:
            if _is_given(options, name):
                raise _without_effect(name, options, f"only {reader} reads it")
    for name in ("lm_path", "lm_weight"):
        if _is_given(options, name) and getattr(generator, "lm_model", None) is None:
            raise _without_effect(name, options, "no language model came with the options")
    aligns = getattr(options, "print_alignment", None)
    if aligns and not any(hasattr(model, "encoder") for model in models):
        raise _without_effect("print_alignment", options, "a language model has no sources")
    if _is_given(options, "replace_unk"):
        reason = None
        if not any(hasattr(model, "encoder") for model in models):
            reason = "a language model has no sources"
        elif aligns:
            reason = "--print-alignment prints alignments in another form"
        elif isinstance(generator, SequenceScorer):
            reason = "--score-reference scores words as they are"
        if reason is not None:
            raise _without_effect("replace_unk", options, reason)
    if isinstance(generator, SequenceScorer):
        if aligns == "soft":
            raise _without_effect("print_alignment", options, "--score-reference aligns hard")
        return
    search = type(generator.search).__name__
    if _is_given(options, "constraints") and not generator.search.supports_constraints:
        raise _without_effect("constraints", options, f"a {search} was asked for, too")
    allowed = allowed or getattr(options, "prefix_allowed_tokens_fn", None)
    if allowed and not isinstance(generator.search, PrefixConstrainedBeamSearch):
        raise ValueError(
            f"prefix_allowed_tokens_fn: expected plain beam search, because a {search} does not "
            "ask it"
        )
    if _positive(options, "sampling_topp") and _positive(options, "sampling_topk"):
        raise _without_effect("sampling_topk", options, "--sampling-topp was given, too")
    if _is_given(options, "diverse_beam_strength") and not _positive(
        options, "diverse_beam_groups"
    ):
        raise _without_effect(
            "diverse_beam_strength", options, "there are no --diverse-beam-groups"
        )


def _is_given(options: Any, name: str) -> bool:
    default = _default(name)
    return bool(getattr(options, name, default) != default)


def _positive(options: Any, name: str) -> bool:
    return bool(getattr(options, name, -1) > 0)


def _default(name: str) -> Any:
    field = GenerationConfig.__dataclass_fields__.get(name)  # each fairseq has others
    return None if field is None else field.default


def _without_effect(name: str, options: Any, reason: str) -> ValueError:
    return ValueError(
        f"--{name.replace('_', '-')}: expected {_default(name)!r}, because {reason}, "
        f"got {getattr(options, name)!r}"
    )


def _of_pretrained_bart(task: Any, models: Any, options: Any, **given: Any) -> Any:
    """As fairseq's method, which reads a dozen options and drops the others."""
    end = task.tgt_dict.index(f"[{task.args.target_lang}]")
    if getattr(options, "score_reference", False):
        aligns = getattr(options, "print_alignment", False)
        return SequenceScorer(task.target_dictionary, compute_alignment=aligns, eos=end)
    given["extra_gen_cls_kwargs"] = {"eos": end, **given.get("extra_gen_cls_kwargs", {})}
    return FairseqTask.build_generator(task, models, options, **given)


def _of_many_languages(task: Any, models: Any, options: Any, **given: Any) -> Any:
    """As fairseq's method, which drops the class and looks for the task's option elsewhere."""
    _, target_token = task.args.langtoks["main"]
    kept = getattr(task.args, "keep_inference_langtok", False)
    if target_token and not kept and not getattr(options, "keep_inference_langtok", False):
        extra = dict(given.get("extra_gen_cls_kwargs", {}))
        token = task.data_manager.get_decoder_langtok(task.args.target_lang, target_token)
        stripped = {token, *(extra.get("symbols_to_strip_from_output") or ())}
        given["extra_gen_cls_kwargs"] = {**extra, "symbols_to_strip_from_output": stripped}
    return FairseqTask.build_generator(task, models, options, **given)


# For the methods of fairseq, ones that drop nothing.
_COMPLETE: dict[Any, Callable[..., Any]] = {
    FairseqTask.build_generator: FairseqTask.build_generator,
    TranslationFromPretrainedBARTTask.build_generator: _of_pretrained_bart,
    TranslationMultiSimpleEpochTask.build_generator: _of_many_languages,
}
