"""`el_attention.convert` on models in memory: the hub interface, copies and pickles."""

from __future__ import annotations

import copy
import pickle
import random
from argparse import Namespace
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from fairseq.data import Dictionary
from fairseq.models.bart import BARTModel
from fairseq.models.transformer import TransformerModel
from fairseq.models.transformer_lm import TransformerLanguageModel
from fairseq.sequence_scorer import SequenceScorer
from fairseq.token_generation_constraints import pack_constraints
from torch import Tensor

import el_attention
from clidata import SETUPS, SINGLE_SENTENCES
from crossed import crossed
from el_attention.fairseq_plugin.attention import ELAttention
from el_attention.fairseq_plugin.decoder import ELDecoder
from el_attention.fairseq_plugin.generator import ELGenerator
from tiny import FAMILIES, PLANS, assert_same, batch, build, dictionary, generate_both, prompts

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")


class Words:
    """A BPE that leaves words whole."""

    def encode(self, sentence: str) -> str:
        return sentence

    decode = encode


CLASSES = {
    "transformer": (TransformerModel, "translation", "s"),
    "bart": (BARTModel, "joint", "w"),
    "lm": (TransformerLanguageModel, "lm", "t"),
    "multi": (TransformerModel, "multi", "w"),
}


def hub(workspace: Any, name: str) -> Any:
    """A fresh hub interface on a checkpoint."""
    model, setup, _ = CLASSES[name]
    path = Path(workspace.checkpoint(name))
    data = str(workspace.root / SETUPS[setup].data)
    # BART's default would download one; any that needs no file will do.
    options = {"bpe": "characters"} if name == "bart" else {}
    if name == "multi":
        options = {"source_lang": "en", "target_lang": "de"}
    interface = model.from_pretrained(str(path.parent), path.name, data, **options).eval()
    interface.bpe = Words() if name == "bart" else None
    return interface


def sentences(name: str) -> list[str]:
    prefix = CLASSES[name][2]
    lines = ["{0}1 {0}2 {0}7 {0}3", "{0}5", "{0}6 {0}2 {0}9 {0}4 {0}4 {0}1", "{0}8 {0}2"]
    return [line.format(prefix) for line in lines]


@pytest.fixture(params=["transformer", "bart", "lm"])
def name(request: pytest.FixtureRequest) -> str:
    if request.param == "lm" and not SINGLE_SENTENCES:
        pytest.skip("fairseq reads np.compat, which numpy 2 has not")
    return str(request.param)


@pytest.mark.parametrize("plan", [*PLANS, "auto"])
def test_hub_interface_translates_and_samples_as_stock(
    workspace: Any, name: str, plan: str
) -> None:
    stock, ours = hub(workspace, name), el_attention.convert(hub(workspace, name), plan)
    attention = next(m for m in ours.modules() if isinstance(m, ELAttention))
    assert attention.el_planner.name == plan
    lines = sentences(name)
    tokens = [stock.encode(line) for line in lines]
    options: list[dict[str, Any]] = [
        {"beam": 5},
        {"beam": 1},
        {"beam": 3, "lenpen": 0.5, "max_len_b": 6, "min_len": 2},
        {"beam": 4, "diverse_beam_groups": 2},
    ]
    for option in options:
        # BART remembers the beam of its first generation: a fresh model for every beam.
        stock = hub(workspace, name) if name == "bart" else stock
        assert_same(
            stock.generate(tokens, **option), ours.generate(tokens, **option), tolerance=1e-4
        )
    stock = hub(workspace, name)
    if name != "bart":
        assert ours.translate(lines) == stock.translate(lines)
        assert ours.translate(lines[0]) == stock.translate(lines[0])
        assert len(set(ours.translate(lines))) == len(lines)
    results = []
    for interface in (stock, ours):
        torch.manual_seed(3)
        results.append(interface.sample(lines, beam=1, sampling=True, sampling_topk=6))
    assert results[0] == results[1]


def test_hub_interface_scores_as_stock(workspace, name):
    stock, ours = hub(workspace, name), el_attention.convert(hub(workspace, name))
    if name != "lm":  # fairseq's own scoring knows language models only
        with pytest.raises(TypeError, match="prev_output_tokens"):
            stock.score(sentences(name))
        with pytest.raises(TypeError, match="prev_output_tokens"):
            ours.score(sentences(name))
        return
    for one, other in zip(stock.score(sentences(name)), ours.score(sentences(name)), strict=True):
        assert torch.equal(one["tokens"], other["tokens"])
        assert torch.equal(one["positional_scores"], other["positional_scores"])


def test_converting_twice_changes_the_plan_only(workspace):
    ours = el_attention.convert(hub(workspace, "transformer"), "expanded-query")
    classes = [type(module) for module in ours.modules()]
    again = el_attention.convert(ours, "shared-projection")
    assert again is ours
    assert [type(module) for module in ours.modules()] == classes
    assert {m.el_planner.name for m in ours.modules() if isinstance(m, ELAttention)} == {
        "shared-projection"
    }
    generator = ours.task.build_generator(ours.models, ours.cfg.generation)
    assert isinstance(generator, ELGenerator)
    assert ours.translate(sentences("transformer")) == hub(workspace, "transformer").translate(
        sentences("transformer")
    )


def test_the_other_objects_of_a_converted_model_keep_their_classes(workspace):
    stock, ours = hub(workspace, "transformer"), hub(workspace, "transformer")
    el_attention.convert(ours)
    before = {name: type(module) for name, module in stock.named_modules()}
    after = {name: type(module) for name, module in ours.named_modules()}
    assert before.keys() == after.keys()
    for name, changed in after.items():
        assert issubclass(changed, before[name])
        assert changed.__name__.endswith(before[name].__name__)
        if name.startswith("models.0.") and "decoder" not in name and not name.endswith("encoder"):
            assert changed is before[name]
    assert not any(isinstance(module, ELAttention | ELDecoder) for module in stock.modules())


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_copies_and_pickles_of_converted_models_are_converted_models(family, duplicate):
    symbols = dictionary()
    original = build(family, symbols, seed=3)
    converted = el_attention.convert(copy.deepcopy(original), "expanded-query")
    twin = duplicate(converted)
    assert type(twin.decoder) is type(converted.decoder)
    assert [type(module) for module in twin.modules()] == [
        type(module) for module in converted.modules()
    ]
    assert not set(map(id, twin.parameters())) & set(map(id, converted.parameters()))
    sample = batch(symbols, [5, 3])
    arguments = {"prefix_tokens": prompts(symbols, [3, 1])} if family == "lm" else {}
    stock, ours = generate_both(
        [original], symbols, sample, "expanded-query", {"beam": 3, "max_len_b": 9}, **arguments
    )
    _, copied = generate_both(
        [twin], symbols, sample, "expanded-query", {"beam": 3, "max_len_b": 9}, **arguments
    )
    assert_same(stock, ours)
    assert_same(ours, copied, tolerance=0.0)


def test_states_saved_from_converted_models_are_plain(workspace, tmp_path):
    stock, ours = hub(workspace, "transformer"), hub(workspace, "transformer")
    torch.save(el_attention.convert(ours).state_dict(), tmp_path / "state.pt")
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    stock.load_state_dict(state)
    assert list(state) == list(stock.state_dict())


@pytest.mark.parametrize("target", [None, torch.nn.Linear(2, 2), "transformer"])
def test_other_objects_are_refused(target):
    with pytest.raises(TypeError, match=rf"hub interface.*got {type(target).__name__}"):
        el_attention.convert(target)


def test_unknown_plans_are_refused():
    model = build("transformer", dictionary())
    with pytest.raises(ValueError, match=r"expanded-query.*'fastest'"):
        el_attention.convert(model, "fastest")
    assert not any(isinstance(module, ELAttention) for module in model.modules())


@pytest.mark.parametrize("hubs", ["one hub", "two hubs of one model"])
def test_threads_that_sample_through_hubs_get_what_each_would_get_alone(
    workspace: Any, name: str, hubs: str
) -> None:
    ours = el_attention.convert(hub(workspace, name))
    other = copy.copy(ours) if hubs == "two hubs of one model" else ours
    lines = sentences(name) * 3
    stock = hub(workspace, name)
    expected = [stock.translate([line])[0] for line in lines]

    def sample(index: int) -> str:
        (text,) = (ours, other)[index % 2].translate([lines[index]])
        return str(text)

    with ThreadPoolExecutor(3) as threads:
        assert list(threads.map(sample, range(len(lines)))) == expected


def ragged(symbols: Dictionary, number: int, seed: int) -> Tensor:
    """Prefixes of very different lengths for `number` sentences."""
    choose = random.Random(seed)
    return prompts(symbols, [choose.randint(0, 5) for _ in range(number - 1)] + [5], seed)


def of_stock_alone(interface: Any, name: str, line: str, prefix: Tensor, **options: Any) -> str:
    """What the search of stock fairseq gives a sentence that is the only one."""
    prefix = prefix[prefix.ne(interface.tgt_dict.pad())]
    if name == "bart":
        prefix = torch.cat([torch.tensor([interface.tgt_dict.bos()]), prefix])
    # A prefix without words is none, for tasks that make one of their own.
    arguments = {"prefix_tokens": prefix[None] if len(prefix) else None}
    if "constraints" in options:
        arguments["constraints"] = options["constraints"]
        options = {**options, "constraints": "ordered"}
    task, tokens = interface.task, interface.encode(line)
    dataset = task.build_dataset_for_inference([tokens], torch.tensor([len(tokens)]))
    generator = task.build_generator(interface.models, Namespace(**options))
    sample = dataset.collater([dataset[0]])
    (hypotheses,) = task.inference_step(generator, interface.models, sample, **arguments)
    return str(interface.decode(hypotheses[0]["tokens"]))


@pytest.mark.parametrize(("batch_size", "name"), crossed([None, 2], ["transformer", "bart"]))
def test_prefixes_and_constraints_follow_their_sentences(workspace, name, batch_size) -> None:
    stock, ours = hub(workspace, name), el_attention.convert(hub(workspace, name))
    ours.cfg.dataset.batch_size = batch_size
    letter, symbols = CLASSES[name][2], stock.tgt_dict
    for seed in range(2):
        choose = random.Random(seed)
        lines = [
            " ".join(f"{letter}{choose.randrange(16)}" for _ in range(choose.randint(1, 9)))
            for _ in range(5)
        ]
        prefixes = ragged(symbols, len(lines), seed)
        prefixes[:, 0] = prompts(symbols, [1] * len(lines), seed + 9)[:, 0]
        options = {"beam": 3, "max_len_a": 0, "max_len_b": 12}
        expected = [
            of_stock_alone(stock, name, line, prefix, **options)
            for line, prefix in zip(lines, prefixes, strict=True)
        ]
        assert ours.translate(lines, prefix_tokens=prefixes, **options) == expected
        given = {"prefix_tokens": prefixes}
        assert ours.sample(lines, inference_step_args=given, **options) == expected
        assert given == {"prefix_tokens": prefixes}
        rows = [row[row.ne(symbols.pad())] for row in prefixes]
        assert ours.translate(lines, prefix_tokens=rows, **options) == expected
        assert ours.translate(lines[1], prefix_tokens=rows[1], **options) == expected[1]

        words = [list(prompts(symbols, [2], 7 * seed + n)[0].split(1)) for n in range(len(lines))]
        none = torch.empty(0).long()
        expected = [
            of_stock_alone(stock, name, line, none, constraints=pack_constraints([w]), **options)
            for line, w in zip(lines, words, strict=True)
        ]
        packed = pack_constraints(words)
        assert ours.translate(lines, constraints=packed, **options) == expected
        given = {"constraints": packed}
        assert (
            ours.translate(lines, constraints="ordered", inference_step_args=given, **options)
            == expected
        )


@pytest.mark.parametrize("name", ["transformer", "bart", "multi"])
def test_functions_of_allowed_tokens_are_told_the_number_of_the_sentence(workspace, name) -> None:
    ours = el_attention.convert(hub(workspace, name))
    first = 1 + (name != "transformer")  # after <s> or a language
    eos, nspecial = ours.tgt_dict.eos(), ours.tgt_dict.nspecial

    def allowed(number: int, tokens: Tensor) -> list[int]:
        if len(tokens) < first:  # a prefix decides
            return list(range(len(ours.tgt_dict)))
        return [nspecial + number] if len(tokens) == first else [eos]

    lines = [line.replace("s", CLASSES[name][2]) for line in sentences("transformer")]
    tokens = [ours.encode(line) for line in lines]
    results = ours.generate(tokens, beam=1, prefix_allowed_tokens_fn=allowed)
    for number, hypotheses in enumerate(results):
        assert hypotheses[0]["tokens"][first - 1 :].tolist() == [nspecial + number, eos]


def test_prompts_of_language_models_follow_their_sentences(workspace) -> None:
    if not SINGLE_SENTENCES:
        pytest.skip("fairseq reads np.compat, which numpy 2 has not")
    stock, ours = hub(workspace, "lm"), el_attention.convert(hub(workspace, "lm"))
    lines = sentences("lm")
    prefixes = prompts(stock.tgt_dict, [3, 1, 4, 2])
    expected = [
        of_stock_alone(stock, "lm", line, prefix, beam=3, max_len_b=9)
        for line, prefix in zip(lines, prefixes, strict=True)
    ]
    assert ours.translate(lines, beam=3, max_len_b=9, prefix_tokens=prefixes) == expected


@pytest.mark.parametrize("name", ["transformer", "bart"])
def test_given_translations_are_scored_as_whole_prefixes(workspace, name) -> None:
    stock, ours = hub(workspace, name), el_attention.convert(hub(workspace, name))
    symbols, lines = stock.tgt_dict, sentences("transformer")
    tokens = [stock.encode(line.replace("s", CLASSES[name][2])) for line in lines]
    end = torch.tensor([symbols.eos()])
    start = torch.tensor([symbols.bos()] if name == "bart" else []).long()
    targets = [torch.cat([start, row, end]) for row in prompts(symbols, [5, 5, 5, 5])[:, :4]]
    results = ours.generate(tokens, beam=1, prefix_tokens=targets)
    scorer = SequenceScorer(symbols)
    for source, target, (hypothesis,) in zip(tokens, targets, results, strict=True):
        net_input = {
            "src_tokens": source[None],
            "src_lengths": torch.tensor([len(source)]),
            "prev_output_tokens": target.roll(1)[None],
        }
        sample = {"net_input": net_input, "target": target[None]}
        ((expected,),) = scorer.generate(stock.models, sample)
        assert hypothesis["tokens"].tolist() == target.tolist()
        torch.testing.assert_close(hypothesis["score"], expected["score"])
        torch.testing.assert_close(
            hypothesis["positional_scores"], expected["positional_scores"], rtol=1e-4, atol=1e-5
        )


def test_options_of_this_package_are_arguments_of_a_hub(workspace) -> None:
    ours = el_attention.convert(hub(workspace, "transformer"))
    lines = sentences("transformer")
    free = ours.translate(lines)
    word = free[0].split()[0]
    without = ours.translate(lines, tokens_to_suppress=[word])
    assert word not in " ".join(without).split()
    assert ours.translate(lines) == free
    with pytest.raises(ValueError, match="--ensemble-weights: expected a positive number"):
        ours.translate(lines, ensemble_weights=[2, 1])


@pytest.mark.parametrize(
    ("argument", "value", "error"),
    [
        ("prefix_tokens", torch.ones(3, 1).long(), ValueError),
        ("prefix_tokens", torch.ones(4, 1), ValueError),
        ("prefix_tokens", torch.tensor(4), ValueError),
        ("prefix_tokens", 4, TypeError),
        ("prefix_tokens", [[4], [5], [6], [7]], TypeError),
        ("constraints", torch.ones(5, 3).long(), ValueError),
    ],
)
def test_arguments_without_a_row_for_each_sentence_are_refused(workspace, argument, value, error):
    ours = el_attention.convert(hub(workspace, "transformer"))
    with pytest.raises(error, match=f"{argument}: expected"):
        ours.translate(sentences("transformer"), **{argument: value})


def test_the_hub_of_a_multilingual_task_translates_as_its_task(workspace) -> None:
    ours = el_attention.convert(hub(workspace, "multi"))
    lines = [line.replace("s", "w") for line in sentences("transformer")]
    stock, none = hub(workspace, "multi"), torch.empty(0).long()
    expected = [of_stock_alone(stock, "multi", line, none) for line in lines]
    assert ours.translate(lines) == expected


@pytest.mark.parametrize("verbose", [False, True])
@pytest.mark.parametrize("name", ["transformer", "bart", "multi"])
def test_alignments_through_the_hub(workspace, name, verbose) -> None:
    stock, ours = hub(workspace, name), el_attention.convert(hub(workspace, name))
    lines = [line.replace("s", CLASSES[name][2]) for line in sentences("transformer")]
    tokens = [stock.encode(line) for line in lines]
    results = {
        kind: ours.generate(tokens, verbose=verbose, print_alignment=kind)
        for kind in (True, "hard")
    }
    assert str(results[True]) == str(results["hard"])
    assert ours.translate(lines, print_alignment=True) == ours.translate(lines)
    soft = ours.generate(tokens, print_alignment="soft")
    if name != "multi":  # whose stock hub fails
        stock_soft = stock.generate(tokens, print_alignment="soft")
        assert_same(stock_soft, soft, tolerance=1e-4)
    for hard, probabilities, source in zip(results["hard"], soft, tokens, strict=True):
        for one, other in zip(hard, probabilities, strict=True):
            weights = torch.tensor([[float(p) for p in row] for row in other["alignment"]])
            length = len(source) + (name == "multi")  # with the token of the language
            assert weights.shape == (len(other["tokens"]), length)
            torch.testing.assert_close(weights.sum(1), torch.ones(len(weights)), rtol=0, atol=1e-4)
            assert len(one["alignment"]) == len(other["tokens"]) - 1


def test_alignments_that_cannot_be_are_refused(workspace) -> None:
    ours = el_attention.convert(hub(workspace, "transformer"))
    with pytest.raises(ValueError, match=r"verbose.*soft"):
        ours.translate(sentences("transformer"), verbose=True, print_alignment="soft")


def test_sentences_that_are_left_out_are_named(workspace, caplog) -> None:
    interface = el_attention.convert(hub(workspace, "transformer"))
    limit = interface.max_positions[0]
    lines = [torch.full((length,), 5) for length in (4, limit + 1, 3, limit + 7)]
    results = interface.generate(lines, skip_invalid_size_inputs=True)
    assert len(results) == 2
    assert f"2 of 4 sentences have no hypotheses, because they are longer than {limit}" in (
        caplog.text
    )
    assert "[1, 3]" in caplog.text
    caplog.clear()
    assert len(interface.generate(lines[::2], skip_invalid_size_inputs=True)) == 2
    assert "no hypotheses" not in caplog.text
