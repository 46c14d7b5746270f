"""scripts/benchmarks: the same weights and hypotheses in every system, the floor, the report."""

from __future__ import annotations

import importlib
import json
import re
from dataclasses import replace

import pytest
import torch

import el_attention.cost
from crossed import REST, crossed

breakdown, cases, floor, report, run, systems, weights = (
    importlib.import_module(f"benchmarks.{name}")
    for name in "breakdown cases floor report run systems weights".split()
)
main = importlib.import_module("benchmarks.__main__").main

pytestmark = [
    *REST,
    pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning"),
]

# CTranslate2 forbids the end of sentence before the softmax, the others after it: that is the gap,
# as large as the probability of one word of the tiny vocabulary, once for each step.
GAPS = {"ctranslate2": 0.05}


@pytest.fixture(
    scope="module", params=[name for name, made in cases.MODELS.items() if made.is_of_fairseq]
)
def model(request, tmp_path_factory):
    """A tiny model and the folder with its checkpoint."""
    tiny = cases.shrunk(cases.MODELS[request.param])
    folder = tmp_path_factory.mktemp(tiny.name)
    weights.write_checkpoint(tiny, folder)
    return tiny, folder


@pytest.fixture(scope="module")
def stock(model):
    """A case, and what fairseq generates in it."""
    tiny, folder = model
    case = cases.Case(tiny, batch=3, beam=4, source=11, steps=6)
    return case, generate("fairseq", case, folder)


def generate(name, case, folder):
    """As many tokens as the case has steps."""
    kind, options = systems.SYSTEMS[name]
    reason = kind.unsupported(case.model)
    if reason is not None:
        pytest.skip(reason)
    kind.prepare(case.model, folder)
    system = kind(case, folder, **options)
    system.load()
    with torch.no_grad():
        longer = replace(case, steps=case.steps + system.closing)
        outcome = system.generate(longer, weights.sources_of(case))
        scored = system.scored(longer, weights.sources_of(case))
    tokens = [[words for words, _ in sentence] for sentence in outcome.hypotheses]
    assert tokens == [[words for words, _ in sentence] for sentence in scored]
    return replace(outcome, hypotheses=scored)


@pytest.mark.parametrize("name", crossed([name for name in systems.SYSTEMS if "int8" not in name]))
def test_hypotheses_and_scores_are_those_of_fairseq(name, model, stock) -> None:
    (_, folder), (case, expected) = model, stock
    got = generate(name, case, folder)
    assert all(len(tokens) == 6 for hypotheses in got.hypotheses for tokens, _ in hypotheses)
    gap = run.score_gap(expected.hypotheses, got.hypotheses)
    assert gap is not None and gap < GAPS.get(name, 1e-4)
    assert 0 < got.first < got.seconds if name == "fairseq" else got.first is None


@pytest.mark.parametrize(
    "name", [name for name, made in cases.MODELS.items() if not made.is_of_fairseq]
)
@pytest.mark.parametrize("system", ["huggingface-el", "ctranslate2"])
def test_models_of_transformers_alone_are_measured_beside_stock(name, system, tmp_path) -> None:
    pytest.importorskip("transformers", reason="of the extra `transformers`")
    case = cases.Case(cases.shrunk(cases.MODELS[name]), batch=3, beam=4, source=11, steps=6)
    expected = generate("huggingface", case, tmp_path).hypotheses
    gap = run.score_gap(expected, generate(system, case, tmp_path).hypotheses)
    assert gap is not None and gap < GAPS.get(system, 1e-4)
    assert systems.SYSTEMS["fairseq"][0].unsupported(case.model) is not None


def test_sentences_get_hypotheses_of_their_own(stock) -> None:
    hypotheses = stock[1].hypotheses
    assert len({tuple(sentence[0][0]) for sentence in hypotheses}) > 1


def test_a_score_gap_wants_the_same_hypotheses_in_any_order() -> None:
    reference = [[([1, 2], -1.0), ([3, 4], -2.0)]]
    assert run.score_gap(reference, [[([3, 4], -2.5), ([1, 2], -1.25)]]) == 0.5
    assert run.score_gap(reference, [[([3, 4], -2.0), ([1, 5], -1.0)]]) is None


def test_hypotheses_differ_by_order_or_if_longer_by_their_beginning() -> None:
    reference = [[([1, 2], 0.0), ([3, 4], 0.0)], [([5, 6], 0.0), ([7, 8], 0.0)]]
    assert run.differing(reference, reference) == 0
    assert run.differing(reference, [reference[0][::-1], reference[1]]) == 1
    longer = [[([3, 4, 9], 0.0), ([3, 4, 1], 0.0)], [([5, 6, 9], 0.0), ([7, 9, 9], 0.0)]]
    assert run.differing(reference, longer) == 1
    assert run.differing(longer, reference) == 1


def test_the_floor_is_that_of_reading_or_of_multiplying() -> None:
    # BART-base: 49.5 M weights of layers and 38.6 M of the vocabulary in each step.
    case = cases.Case(cases.MODELS["bart"], batch=1, beam=4, source=512, steps=8)
    count = 6 * (4 * 768**2 + 2 * 768 * 3072 + 2 * 768**2) + 50_265 * 768
    slow_reading = floor.Rates(read=1e9, product=1e15)
    assert floor.step(case, slow_reading) == pytest.approx(4 * count / 1e9)
    slow_product = floor.Rates(read=1e15, product=1e9)
    assert floor.step(case, slow_product) == pytest.approx(2 * 4 * count / 1e9)
    assert floor.step(replace(case, batch=32), slow_product) == pytest.approx(256 * count / 1e9)
    # GPT-2: each token of the prompt sees half of it.
    case = replace(case, model=cases.MODELS["lm"])
    layer = 4 * 768**2 + 2 * 768 * 3072
    flops = 512 * 12 * (2 * layer + 2 * 512 * 768)
    prompt = floor.first(case, slow_product) - floor.step(case, slow_product)
    assert prompt == pytest.approx(flops / 1e9)


def test_models_have_the_sizes_they_are_named_for() -> None:
    sizes = {name: el_attention.cost.ARCHITECTURES[name] for name in ("bart.base", "gpt-2.small")}
    assert cases.MODELS["bart"].sizes == sizes["bart.base"]
    assert cases.MODELS["lm"].sizes == sizes["gpt-2.small"]
    for name in ("bart", "transformer"):
        args = weights.arguments(cases.MODELS[name])
        assert (args.encoder_layers, args.decoder_layers) == (6, 6)
        assert (args.decoder_embed_dim, args.decoder_ffn_embed_dim) == (768, 3072)
        assert args.share_all_embeddings


def test_a_system_that_is_not_installed_is_left_out_with_the_reason(
    tmp_path, monkeypatch, capsys
) -> None:
    monkeypatch.setattr(systems.util, "find_spec", lambda name: None)
    with pytest.raises(SystemExit):
        main(["--smoke", "--systems", "ctranslate2", "huggingface", "--results", str(tmp_path)])
    out, err = capsys.readouterr()
    assert "bart without ctranslate2: ctranslate2 is not installed; pip install" in out
    assert "bart without huggingface: transformers is not installed; pip install" in out
    assert "none of the systems can be measured" in err


def test_one_step_is_no_difference_of_steps(capsys) -> None:
    with pytest.raises(SystemExit):
        main(["--steps", "1"])
    assert "--steps: expected at least 2, got 1" in capsys.readouterr().err


def result(step: float, **extra: object) -> dict[str, object]:
    times = {"first": [1.0, 3.0, 2.0], "step": [step] * 3, "seconds": [2 + 4 * step] * 3}
    return {**times, "peak": 2**30, "score_gap": 0.0, "differing": 0, **extra}


@pytest.fixture
def document():
    """Results of a run, as JSON."""
    made = [
        {
            "settings": {"model": "bart", "batch": batch, "beam": 4, "source": 512, "steps": 5},
            "floor": {"first": 1.0, "step": 0.01 * batch},
            "systems": {
                "fairseq": result(0.4 * batch),
                "el-attention": result(
                    0.1 * batch, score_gap=2e-6, predicted={"peak": 0.8 * 2**30}
                ),
                "huggingface": result(0.8 * batch, differing=1),
                "ctranslate2": result(0.2 * batch, score_gap=None),
            },
        }
        for batch in (1, 8)
    ]
    return {
        "machine": {"processor": "a processor", "torch": "2.x"},
        "date": "2026-01-01T00:00:00+00:00",
        "settings": {"beam": 4, "source": 512, "steps": 5, "threads": 2},
        "rates": {"read": 2e10, "product": 1e11},
        "cases": made,
    }


def test_the_table_has_medians_and_ratios(document) -> None:
    table = report.markdown(json.loads(json.dumps(document)))
    assert "a processor" in table and "20.0 GB/s" in table and "100 GFLOP/s" in table
    lines = [line.strip("| ").split(" | ") for line in table.splitlines() if line[:1] == "|"]
    assert all(len(line) == len(report.HEADER) for line in lines if "floor" not in line)
    (line,) = (line for line in lines if line[:2] == ["8", "el-attention"])
    assert line == [
        "8", "el-attention", "3", "2,000", "800.0", "10.00", "0.25", "0.12", "0.50",
        "5.20", "0.35", "0.19", "0.62", "1.54",
        "1,024", "819", "1.25", "equal; scores within 2e-06",
    ]  # fmt: skip
    (line,) = (line for line in lines if line[:2] == ["8", "ctranslate2"])
    assert line[14:17] == ["1,024", "", ""]
    assert "1 of 8 sentences differ" in table and "| others |" in table


def test_each_model_gets_a_plot(document, tmp_path) -> None:
    pytest.importorskip("matplotlib", reason="of the extra `report`")
    (picture,) = report.draw(document, tmp_path)
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_a_breakdown_has_the_shares_of_a_step(model, monkeypatch) -> None:
    tiny, folder = model
    case = cases.Case(tiny, batch=1, beam=2, source=7, steps=3)
    spent = {"attention": 6.0, breakdown.PYTHON: 2.0}, {"attention": 3.0, breakdown.PYTHON: 1.0}
    profiles = iter([dict.fromkeys((*breakdown.KINDS, breakdown.OTHER), 0.0) | x for x in spent])
    monkeypatch.setattr(breakdown, "seconds_by_kind", lambda *arguments: next(profiles))
    line = breakdown.shares("el-attention", case, folder)
    assert line == ["1", "el-attention", "2000.0", "0%", "75%", "0%", "0%", "0%", "0%", "25%"]


def test_a_profile_accounts_for_the_linear_layers_of_both_systems(model) -> None:
    tiny, folder = model
    case = cases.Case(tiny, batch=1, beam=2, source=7, steps=3)
    for name in ("fairseq", "el-attention"):
        kind, options = systems.SYSTEMS[name]
        system = kind(case, folder, **options)
        system.load()
        with torch.no_grad():
            found = breakdown.seconds_by_kind(system, case, weights.sources_of(case))
        assert {"linear layers, vocabulary", "attention"} <= {*found}
        assert all(seconds >= 0 for seconds in found.values())


@pytest.mark.slow
def test_the_command_measures_every_system(tmp_path, capsys) -> None:
    options = "--smoke --models bart --batch 2 --source 9 --steps 4 --rounds 2 --threads 1"
    main([*options.split(), "--results", str(tmp_path)])
    found = json.loads((tmp_path / "results.json").read_text())
    (case,) = found["cases"]
    for name, measured in case["systems"].items():
        assert len(measured["seconds"]) == 2, name
        assert measured["peak"] > 0
        parts = measured.get("predicted", {})
        assert bool(parts) is (name == "el-attention")
        assert measured["differing"] == 0 and measured["score_gap"] is not None
    table = (tmp_path / "results.md").read_text()
    assert re.search(r"\| 2 \| el-attention \| 2 \| .* \| equal", table)
    assert table in capsys.readouterr().out
