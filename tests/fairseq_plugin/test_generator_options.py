"""Every option of a generation reaches the generator of every task, or is refused by its name."""

from __future__ import annotations

import random
from argparse import Namespace
from collections.abc import Callable
from typing import Any

import pytest
from fairseq import options, tasks
from fairseq.data.legacy.masked_lm_dictionary import MaskedLMDictionary
from fairseq.dataclass.configs import GenerationConfig
from fairseq.dataclass.utils import convert_namespace_to_omegaconf
from fairseq.search import PrefixConstrainedBeamSearch
from fairseq.sequence_generator import SequenceGenerator
from fairseq.sequence_scorer import SequenceScorer
from fairseq.tasks import FairseqTask

from clidata import Workspace
from el_attention.fairseq_plugin.registry import TASKS
from tiny import build

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")

FIELDS = GenerationConfig.__dataclass_fields__

# Data and options of each task.
SETUPS = {
    "translation": "pair",
    "translation_from_pretrained_bart": "joint --langs en,de -s en -t de",
    "translation_multi_simple_epoch": "joint --langs en,de --lang-pairs en-de --decoder-langtok "
    "-s en -t de",
    "denoising": "noise",
    "multilingual_denoising": "noise --langs en,de",
    "language_modeling": "text",
    "multilingual_language_modeling": "text --langs en",
}

# Options with another value than the default, and what they need beside them.
VALUES: dict[str, dict[str, Any]] = {
    "beam": {"beam": 2},
    "max_len_a": {"max_len_a": 1.5},
    "max_len_b": {"max_len_b": 17},
    "min_len": {"min_len": 4},
    "match_source_len": {"match_source_len": True},
    "unnormalized": {"unnormalized": True},
    "lenpen": {"lenpen": 0.3},
    "unkpen": {"unkpen": 0.7},
    "score_reference": {"score_reference": True},
    "no_repeat_ngram_size": {"no_repeat_ngram_size": 2},
    "sampling": {"sampling": True},
    "sampling_topk": {"sampling": True, "sampling_topk": 3},
    "sampling_topp": {"sampling": True, "sampling_topp": 0.7},
    "constraints": {"constraints": "unordered"},
    "temperature": {"temperature": 1.3},
    "diverse_beam_groups": {"diverse_beam_groups": 1},
    "diverse_beam_strength": {"diverse_beam_groups": 1, "diverse_beam_strength": 0.9},
    "diversity_rate": {"diversity_rate": 0.6},
    "print_alignment": {"print_alignment": "soft"},
}
# Those that other generators read, or that have an effect with others only.
REFUSED: dict[str, Any] = {
    "lm_path": "lm.pt",
    "lm_weight": 0.4,
    "beam_mt": 3,
    "max_len_a_mt": 1.5,
    "max_len_b_mt": 7,
    "lenpen_mt": 0.5,
    "eos_token": "w1",
    "iter_decode_eos_penalty": 0.5,
    "iter_decode_max_iter": 3,
    "iter_decode_force_max_iter": True,
    "iter_decode_with_beam": 2,
    "iter_decode_with_external_reranker": True,
    "retain_iter_history": True,
    "print_step": True,
    "decoding_format": "vanilla",
}
# Those that fairseq's programs and models read, and two that it has deprecated and that do nothing.
OF_PROGRAMS = {
    *("nbest", "replace_unk", "sacrebleu", "prefix_size", "no_seed_provided"),
    *("retain_dropout", "retain_dropout_modules", "no_early_stop", "no_beamable_mm"),
}


@pytest.fixture(scope="module")
def task_of(workspace: Workspace) -> Callable[..., Any]:
    """Sets up an el_ task as fairseq-generate does."""

    def set_up(name: str, *more: str) -> Any:
        task_class: Any = tasks.TASK_REGISTRY[f"el_{name}"]
        if name == "translation_from_pretrained_xlm":  # fairseq cannot load its dictionaries
            symbols = MaskedLMDictionary()
            return task_class(Namespace(attention_plan="auto"), symbols, symbols)
        data, *given = SETUPS[name].split()
        parser = options.get_generation_parser()
        arguments = [str(workspace.root / data), "--task", f"el_{name}", *given, *more]
        cfg = convert_namespace_to_omegaconf(options.parse_args_and_arch(parser, arguments))
        return tasks.setup_task(cfg.task)

    return set_up


def generation(**values: Any) -> Namespace:
    """fairseq's options of a generation, with some other values."""
    return Namespace(**{name: field.default for name, field in FIELDS.items()} | values)


def model_of(task: Any) -> Any:
    family = "lm" if "LanguageModeling" in type(task).__name__ else "transformer"
    return build(family, task.target_dictionary)


def plain(values: dict[str, Any]) -> dict[str, Any]:
    kinds = (bool, int, float, str, set, type(None))
    return {name: value for name, value in values.items() if isinstance(value, kinds)}


def described(generator: Any) -> dict[str, Any]:
    """What a generator does, whoever has built it."""
    found = plain(vars(generator))
    found.pop("training", None)
    if isinstance(generator, SequenceGenerator):
        blocker: Any = generator.repeat_ngram_blocker
        size = "size" if hasattr(blocker, "size") else "no_repeat_ngram_size"
        found["ngrams"] = getattr(blocker, size, 0)
        found["search"] = (type(generator.search).__name__, plain(vars(generator.search)))
        found["lm"] = generator.lm_model is not None and generator.lm_weight
        aligns = getattr(generator, "extract_alignment", None)
        found["alignment"] = aligns and aligns.__name__
    return {k: v for k, v in found.items() if not k.startswith(("el_", "_"))}


def expected(task: Any, model: Any, given: Namespace) -> dict[str, Any]:
    """What fairseq's own method builds, with what the task adds to it."""
    found = described(FairseqTask.build_generator(task, [model], given))
    name = type(task).__name__
    if "FromPretrainedBART" in name:
        own = task.tgt_dict.index("[de]")
        found["symbols_to_strip_from_output"] = {own}
        found["eos"] = own
    elif "MultiSimpleEpoch" in name and not given.score_reference:
        found["symbols_to_strip_from_output"] |= {task.target_dictionary.index("__de__")}
    return found


def test_every_option_of_fairseq_is_looked_at():
    assert set(FIELDS) - {"_name"} <= {*VALUES, *REFUSED, *OF_PROGRAMS}


@pytest.mark.parametrize("name", TASKS)
def test_every_option_reaches_the_generator(task_of, name):
    task = task_of(name)
    model = model_of(task)
    for option, values in VALUES.items():
        if option == "print_alignment" and not hasattr(model, "encoder"):
            continue
        without = {key: value for key, value in values.items() if key != option}
        build_generator = task.build_generator
        before = described(build_generator([model], generation(**without)))
        found = described(build_generator([model], generation(**values)))
        assert found != before, option
        assert found == expected(task, model, generation(**values)), option


@pytest.mark.parametrize("name", TASKS)
def test_options_without_effect_are_refused_by_name(task_of, name):
    task = task_of(name)
    model = model_of(task)
    for option, value in REFUSED.items():
        if option in FIELDS:
            with pytest.raises(ValueError, match=f"--{option.replace('_', '-')}: expected"):
                task.build_generator([model], generation(**{option: value}))


SEARCHES: list[dict[str, Any]] = [
    {},
    *(VALUES[name] for name in ("sampling", "sampling_topk", "sampling_topp", "constraints")),
    *(VALUES[name] for name in ("diverse_beam_strength", "diversity_rate", "match_source_len")),
]
OTHERS = ("beam", "max_len_a", "max_len_b", "min_len", "unnormalized", "lenpen", "unkpen")


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", TASKS)
def test_random_combinations_reach_the_generator(task_of, name, seed):
    choose = random.Random(f"{name} {seed}")
    task = task_of(name)
    model = model_of(task)
    for search in SEARCHES:
        values = dict(search)
        for option in choose.sample((*OTHERS, "temperature", "no_repeat_ngram_size"), 4):
            values |= VALUES[option]
        if choose.random() < 0.3 and hasattr(model, "encoder"):
            values["print_alignment"] = choose.choice(["hard", "soft"])
        if choose.random() < 0.2:
            values["score_reference"] = True
            values.pop("print_alignment", None)
        given = generation(**values)
        found = described(task.build_generator([model], given))
        assert found == expected(task, model, given), values


class OwnGenerator(SequenceGenerator):
    """A generator of a user."""


@pytest.mark.parametrize("name", TASKS)
def test_arguments_of_the_method_reach_the_generator(task_of, name):
    task = task_of(name)
    model, symbols = model_of(task), task.target_dictionary

    def allowed(sentence: int, tokens: Any) -> list[int]:
        return [5]

    lm = build("lm", symbols)
    generator = task.build_generator(
        [model],
        generation(lm_weight=0.4),
        seq_gen_cls=OwnGenerator,
        extra_gen_cls_kwargs={
            "lm_model": lm,
            "lm_weight": 0.4,
            "symbols_to_strip_from_output": {7},
        },
        prefix_allowed_tokens_fn=allowed,
    )
    assert isinstance(generator, OwnGenerator)
    assert generator.lm_model is lm
    assert 7 in generator.symbols_to_strip_from_output
    assert isinstance(generator.search, PrefixConstrainedBeamSearch)
    assert generator.search.prefix_allowed_tokens_fn is allowed
    for other in ("sampling", "constraints", "diverse_beam_groups"):
        with pytest.raises(ValueError, match="prefix_allowed_tokens_fn: expected plain beam"):
            task.build_generator([model], generation(**VALUES[other]), None, None, allowed)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (VALUES["constraints"] | VALUES["sampling"], "--constraints: .* because a Sampling"),
        (VALUES["sampling_topk"] | VALUES["sampling_topp"], "--sampling-topk: .*--sampling-topp"),
        ({"diverse_beam_strength": 0.9}, "--diverse-beam-strength: .*--diverse-beam-groups"),
        ({"score_reference": True, "print_alignment": "soft"}, "--print-alignment: .*align.* hard"),
        ({"score_reference": True, "lm_path": "lm.pt"}, "--lm-path: "),
        ({"print_alignment": "some"}, "print_alignment: expected 'hard' or 'soft'"),
    ],
)
def test_options_that_exclude_each_other_are_refused(task_of, values, message):
    task = task_of("translation")
    with pytest.raises(ValueError, match=message):
        task.build_generator([model_of(task)], generation(**values))


@pytest.mark.parametrize("more", [{}, VALUES["score_reference"]])
def test_alignments_of_language_models_are_refused(task_of, more):
    task = task_of("language_modeling")
    with pytest.raises(ValueError, match=r"--print-alignment: .* no sources"):
        task.build_generator([model_of(task)], generation(print_alignment="hard", **more))


def test_mbart_aligns_references(task_of):
    task = task_of("translation_from_pretrained_bart")
    model = model_of(task)
    scorer = task.build_generator([model], generation(score_reference=True, print_alignment="hard"))
    assert isinstance(scorer, SequenceScorer)
    assert scorer.compute_alignment == "hard"


def test_language_tokens_are_kept_on_demand(task_of):
    for more, stripped in (([], True), (["--keep-inference-langtok"], False)):
        task = task_of("translation_multi_simple_epoch", *more)
        generator: Any = task.build_generator([model_of(task)], generation())
        token = task.target_dictionary.index("__de__")
        assert (token in generator.symbols_to_strip_from_output) is stripped
