"""The operators against plain multi-head attention in float64."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from el_attention.attention import PLANS, Plan, Projections, Sink
from el_attention.ops import Rows, attend, contract, expand, extension, reference

# Odd sizes: groups, beam, heads, head_dim, state width, rows.
SIZES = [(1, 1, 1, 3, 5, 1), (2, 3, 4, 2, 7, 9), (3, 5, 2, 7, 11, 17), (4, 33, 3, 5, 13, 6)]


def projections(heads: int, head_dim: int, width: int, bias: bool = True) -> Projections:
    """Random float64 projections."""

    def matrix() -> Tensor:
        return torch.randn(heads * head_dim, width, dtype=torch.float64)

    def vector() -> Tensor | None:
        return torch.randn(heads * head_dim, dtype=torch.float64) if bias else None

    return Projections(heads, matrix(), vector(), matrix(), vector())


def multi_head(
    weights: Projections,
    query: Tensor,
    states: Tensor,
    visible: Tensor,
    sinks: tuple[Sink, ...] = (),
    dropout_mask: Tensor | None = None,
    bias: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Attention by its definition, one beam and one head at a time; states are [G, U, width]."""
    groups, beam, heads, head_dim = query.shape
    outputs, probabilities = torch.zeros_like(query), []
    for g in range(groups):
        key = states[g] @ weights.key_weight.t()
        value = states[g] @ weights.value_weight.t()
        if weights.key_bias is not None and weights.value_bias is not None:
            key, value = key + weights.key_bias, value + weights.value_bias
        for b in range(beam):
            for h in range(heads):
                part = slice(h * head_dim, (h + 1) * head_dim)
                zero = query.new_zeros(head_dim)
                extra_keys = [zero if s.key is None else s.key[h] for s in sinks]
                extra_values = [zero if s.value is None else s.value[h] for s in sinks]
                keys = torch.stack([*key[:, part], *extra_keys])
                values = torch.stack([*value[:, part], *extra_values])
                score = keys @ query[g, b, h]
                if bias is not None:
                    score[: states.size(1)] += bias[g, h]
                hidden = ~visible[g, b if visible.size(1) > 1 else 0]
                score[: len(hidden)][hidden] = -math.inf
                p = score.softmax(0)
                probabilities.append(p)
                outputs[g, b, h] = (
                    p if dropout_mask is None else p * dropout_mask[g, b, h]
                ) @ values
    return outputs, torch.stack(probabilities).view(groups, beam, heads, -1)


def visibility(groups: int, beam: int, rows: int) -> Tensor:
    """Random visibility in which every beam sees at least one row."""
    visible = torch.rand(groups, beam, rows) < 0.6
    visible[..., -1] |= ~visible.any(-1)
    return visible


def changed(weights: Projections, change: Callable[[Tensor], Tensor]) -> Projections:
    """Projections with every tensor changed."""
    assert weights.key_bias is not None and weights.value_bias is not None
    return Projections(
        weights.heads,
        change(weights.key_weight),
        change(weights.key_bias),
        change(weights.value_weight),
        change(weights.value_bias),
    )


def kept(
    plan: Plan, weights: Projections, states: Tensor, columns: list[int] | None = None
) -> Rows:
    """What a plan keeps of states, [rows, columns, width]."""
    keys, values = plan.payload(weights, states)
    return Rows(keys, values, torch.tensor(columns or range(states.size(1))))


def blocks(states: Tensor, cuts: int) -> list[tuple[Tensor, int]]:
    """Cuts [G, U, width] into [rows, G, width] segments, laid out as fairseq's T x B x C."""
    segments = states.transpose(0, 1).contiguous().tensor_split(cuts)
    return [(segment, segment.size(0)) for segment in segments if segment.size(0)]


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(1)


@pytest.mark.parametrize("plan", PLANS.values(), ids=lambda plan: plan.name)
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("cuts", [1, 3])
def test_each_plan_equals_multi_head_attention(plan, size, bias, cuts, operators) -> None:
    groups, beam, heads, head_dim, width, length = size
    weights = projections(heads, head_dim, width, bias)
    query = torch.randn(groups, beam, heads, head_dim, dtype=torch.float64)
    states = torch.randn(groups, length, width, dtype=torch.float64)
    visible = visibility(groups, beam, length)
    rows = [kept(plan, weights, segment) for segment, _ in blocks(states, cuts)]
    result = plan.read(weights, query, rows, visible)
    expected, probabilities = multi_head(weights, query, states, visible)
    torch.testing.assert_close(result.heads, expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(result.weights, probabilities, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("plan", PLANS.values(), ids=lambda plan: plan.name)
@pytest.mark.parametrize("with_bias", [True, False])
@pytest.mark.parametrize("drop", [True, False])
def test_sinks_and_dropout_keep_the_biases_exact(plan, with_bias, drop, operators) -> None:
    groups, beam, heads, head_dim, width, length = 2, 3, 4, 2, 7, 9
    weights = projections(heads, head_dim, width, with_bias)
    query = torch.randn(groups, beam, heads, head_dim, dtype=torch.float64)
    states = torch.randn(groups, length, width, dtype=torch.float64)
    visible = visibility(groups, beam, length)
    sinks = (
        Sink(*torch.randn(2, heads, head_dim, dtype=torch.float64)),
        Sink(None, None),
    )
    dropout_mask = None
    if drop:
        dropout_mask = torch.nn.functional.dropout(
            torch.ones(groups, beam, heads, length + 2, dtype=torch.float64), 0.4
        )
        assert (dropout_mask.sum(-1) - (length + 2)).abs().max() > 0.5  # the sum of p is far from 1
    rows = [kept(plan, weights, segment) for segment, _ in blocks(states, 2)]
    result = plan.read(weights, query, rows, visible, sinks, dropout_mask=dropout_mask)
    expected, probabilities = multi_head(weights, query, states, visible, sinks, dropout_mask)
    torch.testing.assert_close(result.heads, expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(result.weights, probabilities, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("plan", PLANS.values(), ids=lambda plan: plan.name)
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("sinks", [0, 2])
def test_each_plan_adds_a_bias(plan, size, sinks, operators) -> None:
    groups, beam, heads, head_dim, width, length = size
    weights = projections(heads, head_dim, width)
    query = torch.randn(groups, beam, heads, head_dim, dtype=torch.float64)
    states = torch.randn(groups, length, width, dtype=torch.float64)
    visible = visibility(groups, beam, length)
    bias = torch.randn(groups, heads, length, dtype=torch.float64)
    bias[..., :-1][torch.rand(groups, heads, length - 1) < 0.2] = -math.inf
    visible[..., -1] = True
    extra = (Sink(*torch.randn(2, heads, head_dim, dtype=torch.float64)), Sink(None, None))[:sinks]
    rows = [kept(plan, weights, segment) for segment, _ in blocks(states, 3)]
    result = plan.read(weights, query, rows, visible, extra, bias=bias)
    expected, probabilities = multi_head(weights, query, states, visible, extra, bias=bias)
    torch.testing.assert_close(result.heads, expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(result.weights, probabilities, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("plan", PLANS.values(), ids=lambda plan: plan.name)
def test_sentences_are_read_in_any_columns_without_copying_them(plan, operators) -> None:
    groups, beam, heads, head_dim, width, length = 4, 2, 3, 2, 5, 6
    weights = projections(heads, head_dim, width)
    all_states = torch.randn(7, length, width, dtype=torch.float64)
    columns = [0, 1, 6, 4]
    query = torch.randn(groups, beam, heads, head_dim, dtype=torch.float64)
    visible = visibility(groups, beam, length)
    rows = [kept(plan, weights, all_states.transpose(0, 1), columns)]
    result = plan.read(weights, query, rows, visible)
    expected, _ = multi_head(weights, query, all_states[columns], visible)
    torch.testing.assert_close(result.heads, expected, rtol=1e-12, atol=1e-12)


def test_a_beam_that_sees_nothing_gets_zero(operators) -> None:
    query = torch.randn(2, 2, 3, 4)
    rows = torch.randn(5, 2, 1, 4)
    visible = torch.ones(2, 2, 5, dtype=torch.bool)
    visible[1, 0] = False
    attended = attend(query, [Rows(rows, rows, torch.arange(2))], visible)
    assert attended.weights is not None and attended.weights[1, 0].eq(0).all()
    assert attended.context[1, 0].eq(0).all()
    assert attended.mass is not None
    torch.testing.assert_close(
        attended.mass[..., 0], visible.any(-1)[..., None].expand(2, 2, 3).float()
    )
    assert attended.context[0].abs().min() > 0


@pytest.mark.parametrize("kv_heads", [1, 3])
def test_a_bias_of_minus_infinity_gives_weight_zero(kv_heads, operators) -> None:
    query = torch.randn(2, 2, 3, 4)
    keys, values = torch.randn(2, 5, 2, kv_heads, 4)
    rows = [Rows(keys, values, torch.arange(2))]
    bias = torch.randn(2, 3, 5)
    bias[0, 1, 2] = bias[1, 2] = -math.inf
    attended = attend(query, rows, None, bias=bias)
    assert attended.weights is not None and attended.mass is not None
    assert torch.equal(attended.weights.eq(0), bias.isneginf()[:, None].expand(-1, 2, -1, -1))
    assert attended.context[1, :, 2].eq(0).all() and attended.context[1, :, :2].ne(0).all()
    expected = torch.ones(2, 2, 3)
    expected[1, :, 2] = 0  # a head that sees nothing
    torch.testing.assert_close(attended.mass[..., 0], expected)


@pytest.mark.parametrize("plan", PLANS.values(), ids=lambda plan: plan.name)
@pytest.mark.parametrize("poison", [math.nan, math.inf], ids=str)
def test_rows_that_nobody_sees_may_hold_anything(plan, poison, operators) -> None:
    groups, beam, heads, head_dim, width, length = 3, 2, 3, 2, 5, 9
    weights = projections(heads, head_dim, width)
    query = torch.randn(groups, beam, heads, head_dim, dtype=torch.float64)
    states = torch.randn(5, length, width, dtype=torch.float64)
    visible = visibility(groups, beam, length)
    visible[:, :, 2:5] = False
    columns = [4, 0, 3]
    expected, probabilities = multi_head(weights, query, states[columns], visible)
    dead = torch.ones(5, length, dtype=torch.bool)
    dead[columns] = ~visible.any(1)
    assert dead.sum() > 2 * length + 3 * groups
    states[dead] = poison
    rows = [kept(plan, weights, segment, columns) for segment, _ in blocks(states, 2)]
    result = plan.read(weights, query, rows, visible)
    torch.testing.assert_close(result.heads, expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(result.weights, probabilities, rtol=1e-12, atol=1e-12)


def test_an_extension_that_cannot_be_used_is_announced_in_one_line(tmp_path, caplog) -> None:
    note = tmp_path / "_C.json"
    assert "not built" in (extension.load(note) or "") and not caplog.messages
    note.write_text('{"torch": "2.6.0"}')
    reason = extension.load(note)
    assert reason == f"built for torch 2.6.0, running torch {torch.__version__}"
    assert caplog.messages == [f"the compiled operators are not used: {reason}"]


def test_an_extension_of_older_sources_is_not_used(monkeypatch, caplog) -> None:
    if extension.unsupported is not None:
        pytest.skip(f"no compiled operators: {extension.unsupported}")
    monkeypatch.setattr(extension, "OPERATORS", {"attend": 7, "weights": 6, "one_of_tomorrow": 1})
    expected = "built from other sources: they differ in attend, one_of_tomorrow; install again"
    assert extension.load() == expected
    assert caplog.messages == [f"the compiled operators are not used: {expected}"]


def test_no_rows_at_all_give_zero(operators) -> None:
    query, rows = torch.randn(2, 3, 2, 4), torch.randn(0, 2, 1, 4)
    attended = attend(query, [Rows(rows, rows, torch.arange(2))], None)
    assert attended.context.eq(0).all() and attended.mass is not None and attended.mass.eq(0).all()


@pytest.mark.parametrize("plan", PLANS.values(), ids=lambda plan: plan.name)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_error_is_at_most_twice_that_of_multi_head_attention(plan, dtype, operators) -> None:
    """Twice the error of attention computed naively in that dtype, against float64."""
    groups, beam, heads, head_dim, width, length = 3, 4, 4, 16, 64, 50
    exact = projections(heads, head_dim, width)
    query = torch.randn(groups, beam, heads, head_dim, dtype=torch.float64) / 4
    states = torch.randn(groups, length, width, dtype=torch.float64)
    visible = visibility(groups, beam, length)

    low = changed(exact, lambda x: (x / 8).to(dtype))
    query, states = query.to(dtype), states.to(dtype)
    truth, _ = multi_head(changed(low, Tensor.double), query.double(), states.double(), visible)
    naive, _ = multi_head(low, query, states, visible)
    rows = [kept(plan, low, states.transpose(0, 1))]
    result = plan.read(low, query, rows, visible)
    assert result.heads.dtype == dtype

    def error(x: Tensor) -> float:
        return float((x.double() - truth).norm() / truth.norm())

    assert 0 < error(result.heads) <= 2 * error(naive)


def test_expand_and_contract_move_the_projections() -> None:
    query = torch.randn(5, 3, 4, dtype=torch.float64)
    weight, bias = torch.randn(12, 7, dtype=torch.float64), torch.randn(12, dtype=torch.float64)
    states = torch.randn(6, 7, dtype=torch.float64)
    keys = (states @ weight.t()).view(6, 3, 4)
    scores = torch.einsum("nhk,uhk->nhu", query, keys)
    torch.testing.assert_close(expand(query, weight) @ states.t(), scores)
    p = torch.rand(5, 3, 6, dtype=torch.float64)
    values = (states @ weight.t() + bias).view(6, 3, 4)
    expected = torch.einsum("nhu,uhk->nhk", p, values)
    torch.testing.assert_close(
        contract(p @ states, weight, bias, p.sum(-1, keepdim=True)), expected
    )


def test_misfitting_shapes_are_named() -> None:
    rows = torch.randn(5, 2, 1, 4)
    with pytest.raises(ValueError, match=r"visible: expected \[2, 1 or 3, 5\], got \(2, 3, 4\)"):
        reference.attend(
            torch.randn(2, 3, 2, 4),
            [Rows(rows, rows, torch.arange(2))],
            torch.ones(2, 3, 4, dtype=torch.bool),
        )
    for bias, message in (
        (torch.zeros(2, 2, 4), r"bias: expected \[2, 2, 5\], got \(2, 2, 4\)"),
        (torch.zeros(2, 2, 5).double(), "bias: expected dtype torch.float32, got torch.float64"),
    ):
        with pytest.raises(ValueError, match=message):
            reference.attend(
                torch.randn(2, 3, 2, 4), [Rows(rows, rows, torch.arange(2))], None, bias=bias
            )
    with pytest.raises(ValueError, match=r"key_weight: expected 3 x 4 rows.*got \(10, 7\)"):
        expand(torch.randn(5, 3, 4), torch.randn(10, 7))
    with pytest.raises(ValueError, match=r"value_weight: expected a multiple of 3 heads"):
        contract(torch.randn(5, 3, 7), torch.randn(10, 7), None)
