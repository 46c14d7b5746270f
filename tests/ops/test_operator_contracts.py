"""What every operator keeps to: derivatives, one device, and what hidden rows may hold."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd import forward_ad

from el_attention import ops
from el_attention.ops import Rows, extension, reference

needs_compiled = pytest.mark.skipif(
    extension.unsupported is not None, reason=f"the compiled operators are {extension.unsupported}"
)
Arguments = dict[str, Any]  # tensors, lists of tensors, and numbers, by name


def arguments_of(operator: str) -> Arguments:
    """Valid arguments in float64, of odd sizes."""
    torch.manual_seed(3)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, dtype=torch.float64)

    if operator in ("attend", "weights"):
        arguments: Arguments = {
            "query": draw(2, 3, 4, 5),
            "keys": [draw(7, 3, 4, 5), draw(4, 2, 4, 5)],
            "values": [draw(7, 3, 4, 6), draw(4, 2, 4, 6)],
            "columns": [torch.tensor([2, 0]), torch.tensor([0, 1])],
            "visible": torch.rand(2, 3, 11) < 0.7,
            "bias": draw(2, 4, 11),
        }
        arguments["visible"][..., 0] = True
        if operator == "weights":
            del arguments["values"]
            arguments["lse"] = draw(2, 3, 4)
        return arguments
    if operator == "block_ngrams_":
        return {
            "lprobs": draw(6, 9),
            "tokens": torch.randint(4, 7, (6, 12)),
            "size": 2,
            "length": 12,
            "forced": torch.arange(6) == 1,
        }
    if operator == "log_sum_exp":
        return {"logits": draw(6, 9)}
    if operator == "top_candidates":
        return {"logits": draw(6, 9), "lse": draw(6), "scores": draw(6), "beam": 3, "k": 4}
    return {"input": draw(6, 5), "weight": draw(7, 5), "bias": draw(7)}


OPERATORS = ("attend", "weights", "block_ngrams_", "log_sum_exp", "top_candidates", "linear")


def compiled_operator(operator: str) -> Callable[[Arguments], Any]:
    """Calls what torch has registered."""
    return lambda arguments: getattr(torch.ops.el_attention, operator)(**arguments)


def public_operator(operator: str) -> Callable[[Arguments], Any]:
    """Calls what the package offers, which takes the compiled operator or the reference."""

    def call(arguments: Arguments) -> Any:
        values = list(arguments.values())
        if operator in ("attend", "weights"):
            query, keys = arguments["query"], arguments["keys"]
            segments = zip(keys, arguments.get("values") or keys, arguments["columns"], strict=True)
            rows, visible = [Rows(*segment) for segment in segments], arguments["visible"]
            attended = ops.attend(query, rows, visible, bias=arguments["bias"])
            return attended.weights if operator == "weights" else attended.context
        if operator == "block_ngrams_":
            ops.block_ngrams_(*values)
            return arguments["lprobs"]
        return getattr(ops, operator)(*values)

    return call


def first(result: Any) -> Tensor:
    return result if isinstance(result, Tensor) else result[0]


def differentiable(arguments: Arguments) -> list[tuple[str, int | None]]:
    """The places of the floating-point tensors."""
    return [place for place in places(arguments) if at(arguments, place).dtype.is_floating_point]


def places(arguments: Arguments) -> list[tuple[str, int | None]]:
    """Where the tensors are: name, and index in a list."""
    found: list[tuple[str, int | None]] = []
    for name, value in arguments.items():
        if isinstance(value, Tensor):
            found.append((name, None))
        elif isinstance(value, list):
            found += [(name, i) for i in range(len(value))]
    return found


def at(arguments: Arguments, place: tuple[str, int | None]) -> Tensor:
    name, index = place
    return arguments[name] if index is None else arguments[name][index]


def put(arguments: Arguments, place: tuple[str, int | None], value: Tensor) -> Arguments:
    """The arguments with another tensor in a place."""
    name, index = place
    if index is None:
        return {**arguments, name: value}
    replaced = list(arguments[name])
    replaced[index] = value
    return {**arguments, name: replaced}


def each_place(choose: Callable[[Arguments], list[tuple[str, int | None]]]) -> Iterator[Any]:
    for operator in OPERATORS:
        for name, index in choose(arguments_of(operator)):
            label = name if index is None else f"{name}[{index}]"
            yield pytest.param(operator, (name, index), id=f"{operator}-{label}")


# ---- One device ----------------------------------------------------------------------------------


def on_two_devices(operator: str, place: tuple[str, int | None], rest: str) -> Arguments:
    """Arguments with one tensor on the CPU and the others on the meta device, or vice versa."""
    arguments = arguments_of(operator)
    for each in places(arguments):
        device = ("meta" if rest == "cpu" else "cpu") if each == place else rest
        arguments = put(arguments, each, at(arguments, each).to(device))
    return arguments


def several(arguments: Arguments) -> list[tuple[str, int | None]]:
    """The places of the tensors, where there is more than one."""
    found = places(arguments)
    return found if len(found) > 1 else []


@needs_compiled
@pytest.mark.parametrize("inference", [False, True], ids=["", "inference mode"])
@pytest.mark.parametrize("rest", ["cpu", "meta"])
@pytest.mark.parametrize(("operator", "place"), each_place(several))
def test_a_compiled_operator_names_the_tensor_on_another_device(
    operator, place, rest, inference
) -> None:
    with torch.inference_mode() if inference else nullcontext():
        arguments = on_two_devices(operator, place, rest)
        with pytest.raises(RuntimeError) as error:
            compiled_operator(operator)(arguments)
    # The first tensor says which device is expected.
    name, index = places(arguments)[1] if place == places(arguments)[0] else place
    expected = name if index is None else f"{name}[{index}]"
    assert str(error.value).startswith(f"{expected}: expected device")


@pytest.mark.parametrize("rest", ["cpu", "meta"])
@pytest.mark.parametrize(("operator", "place"), each_place(several))
def test_a_public_operator_refuses_a_tensor_on_another_device(
    operator, place, rest, operators
) -> None:
    if operator == "weights" and place[0] == "lse":
        return  # it has none
    with pytest.raises((RuntimeError, ValueError), match=r"[a-z]+(\[\d\])?: expected device"):
        public_operator(operator)(on_two_devices(operator, place, rest))


@pytest.mark.parametrize("which", ["sinks", "dropout_mask"])
def test_sinks_and_dropout_on_another_device_are_named(which, operators) -> None:
    query, rows = torch.randn(2, 3, 4, 5), torch.randn(7, 2, 1, 5)
    extra: dict[str, Any] = {which: torch.ones(2, 3, 4, 7, device="meta")}
    with pytest.raises(ValueError, match=rf"{which}: expected device cpu, that of query, got meta"):
        ops.attend(query, [Rows(rows, rows, torch.arange(2))], None, **extra)


def test_projections_on_another_device_are_named() -> None:
    x, weight = torch.randn(2, 3, 4), torch.randn(12, 4, device="meta")
    with pytest.raises(ValueError, match="key_weight: expected device cpu"):
        ops.expand(x, weight)
    with pytest.raises(ValueError, match="value_weight: expected device cpu"):
        ops.contract(x, weight, None)
    with pytest.raises(ValueError, match="mass: expected device cpu"):
        ops.contract(x, torch.randn(12, 4), None, torch.ones(2, 3, 1, device="meta"))


# ---- Derivatives ---------------------------------------------------------------------------------


def directional(operator: str, place: tuple[str, int | None]) -> tuple[Tensor, Tensor]:
    """A direction, and the derivative of the public operator in it by finite differences."""
    arguments = arguments_of(operator)
    x, eps = at(arguments, place), 1e-6
    direction = torch.randn_like(x)

    def value(step: float) -> Tensor:
        arguments = arguments_of(operator)
        moved = at(arguments, place) + step * direction
        return first(public_operator(operator)(put(arguments, place, moved)))

    found = (value(eps) - value(-eps)) / (2 * eps)
    return direction, found.nan_to_num(0.0)  # -inf - -inf where a token is forbidden


@pytest.mark.parametrize(("operator", "place"), each_place(differentiable))
def test_forward_mode_is_right(operator, place, operators) -> None:
    if operator == "weights" and place[0] == "lse":
        return
    direction, expected = directional(operator, place)

    def function(x: Tensor) -> Tensor:
        return first(public_operator(operator)(put(arguments_of(operator), place, x.clone())))

    x = at(arguments_of(operator), place)
    tangent = torch.func.jvp(function, (x,), (direction,))[1]
    torch.testing.assert_close(tangent, expected, rtol=1e-6, atol=1e-6)
    with torch.no_grad(), forward_ad.dual_level():
        dual = function(forward_ad.make_dual(x, direction))
        torch.testing.assert_close(forward_ad.unpack_dual(dual).tangent, tangent)


@pytest.mark.parametrize(("operator", "place"), each_place(differentiable))
def test_reverse_mode_is_right(operator, place, operators) -> None:
    if operator == "weights" and place[0] == "lse":
        return
    direction, expected = directional(operator, place)
    x = at(arguments_of(operator), place).requires_grad_()
    result = first(public_operator(operator)(put(arguments_of(operator), place, x.clone())))
    result = result.masked_fill(result.isinf(), 0.0)
    cotangent = torch.randn_like(result)
    (gradient,) = torch.autograd.grad(result, x, cotangent)
    torch.testing.assert_close(
        (gradient * direction).sum(), (cotangent * expected).sum(), rtol=1e-6, atol=1e-6
    )


@needs_compiled
@pytest.mark.parametrize(("operator", "place"), each_place(differentiable))
def test_a_compiled_operator_refuses_every_kind_of_derivative(operator, place) -> None:
    arguments = arguments_of(operator)
    x = at(arguments, place)

    def function(x: Tensor) -> Tensor:
        return first(compiled_operator(operator)(put(arguments, place, x)) or x)

    message = f"el_attention::{operator}: expected inputs"
    with pytest.raises(RuntimeError, match=f"{message} without a tangent, got one with"):
        torch.func.jvp(function, (x,), (torch.ones_like(x),))
    with torch.no_grad(), forward_ad.dual_level():
        dual = forward_ad.make_dual(x, torch.ones_like(x))
        with pytest.raises(RuntimeError, match=f"{message} without a tangent, got one with"):
            function(dual)
    with pytest.raises(RuntimeError, match=f"{message} that need no gradient, got one that"):
        torch.func.vjp(function, x)
    with pytest.raises(RuntimeError, match=f"{message} that need no gradient, got one that"):
        function(x.clone().requires_grad_())


@pytest.mark.parametrize("wrapped", [False, True], ids=["", "view"])
def test_backward_through_an_overwritten_tensor_raises(wrapped, operators) -> None:
    arguments = arguments_of("block_ngrams_")
    x = torch.rand(6, 9, dtype=torch.float64, requires_grad=True)
    saved = x.exp()  # saves its result
    with torch.no_grad():
        before = saved._version
        lprobs = saved[:] if wrapped else saved
        public_operator("block_ngrams_")({**arguments, "lprobs": lprobs})
        assert saved._version > before and saved.isinf().any()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        saved.sum().backward()


def test_ngrams_are_blocked_in_inference_mode(operators) -> None:
    expected = arguments_of("block_ngrams_")
    reference.block_ngrams_(**expected)
    normal = arguments_of("block_ngrams_")
    with torch.inference_mode():
        inference = arguments_of("block_ngrams_")
        for arguments in (normal, inference):
            public_operator("block_ngrams_")(arguments)
            assert torch.equal(arguments["lprobs"], expected["lprobs"])
    assert normal["lprobs"]._version > 0


@pytest.mark.parametrize(("operator", "place"), each_place(places))
def test_vmap_is_right_or_refused(operator, place, operators) -> None:
    """Over one argument at a time; no result is silently wrong."""
    if operator == "weights" and place[0] == "lse":
        return
    arguments = arguments_of(operator)
    x = at(arguments, place)
    stacked = torch.stack([x, x.flip(0), x])

    def function(x: Tensor) -> Tensor:
        fresh = put(arguments_of(operator), place, x)
        if operator == "block_ngrams_":
            fresh["lprobs"] = fresh["lprobs"].clone()
        return first(public_operator(operator)(fresh))

    expected = torch.stack([function(x) for x in stacked])
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that a loop is slow
            found = torch.vmap(function)(stacked)
    except (RuntimeError, ValueError, NotImplementedError):
        return
    torch.testing.assert_close(found, expected)


# ---- Hidden rows ---------------------------------------------------------------------------------


def separately(
    query: Tensor,
    rows: list[Rows],
    visible: Tensor,
    sinks: Tensor | None = None,
    bias: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Context and weights in float64, one beam at a time, of the rows that it sees alone."""
    groups, beam, heads, _ = query.shape
    contexts, weights = [], torch.zeros(groups, beam, heads, visible.size(2), dtype=torch.float64)
    for g in range(groups):
        keys = torch.cat([p.keys[:, p.columns[g]] for p in rows]).double()
        values = torch.cat([p.values[:, p.columns[g]] for p in rows]).double()
        keys, values = (x.expand(-1, heads, -1) for x in (keys, values))
        for b in range(beam):
            seen = visible[g, b if visible.size(1) > 1 else 0]
            scores = torch.einsum("hw,uhw->hu", query[g, b].double(), keys[seen])
            if bias is not None:
                scores = scores + bias[g, :, seen].double()
            if sinks is not None:
                scores = torch.cat([scores, sinks[g, b].double()], -1)
            p = scores.softmax(-1)[:, : int(seen.sum())]
            weights[g, b, :, seen] = p
            contexts.append(torch.einsum("hu,uhv->hv", p, values[seen]))
    return torch.stack(contexts).view(groups, beam, heads, -1), weights


def assert_each_beam_is_right(
    query: Tensor,
    rows: list[Rows],
    visible: Tensor,
    sinks: Tensor | None = None,
    bias: Tensor | None = None,
) -> None:
    found = ops.attend(query, rows, visible, bias=bias, sinks=sinks)
    context, weights = separately(query, rows, visible, sinks, bias)
    tolerance = {torch.float64: 1e-10, torch.float32: 1e-4}.get(query.dtype, 0.05)
    close: dict[str, Any] = {"rtol": tolerance, "atol": tolerance, "equal_nan": True}
    torch.testing.assert_close(found.context.double(), context, **close)
    assert found.weights is not None
    found_weights = found.weights[..., : visible.size(2)].double()
    blank = weights.isnan().any(-1, keepdim=True) & ~visible[:, :, None]  # of beams that are lost
    torch.testing.assert_close(
        found_weights.masked_fill(blank, 0.0), weights.masked_fill(blank, 0.0), **close
    )


@pytest.mark.parametrize("poison", [math.nan, math.inf, -math.inf], ids=str)
@pytest.mark.parametrize("part", ["keys", "values", "states"])
@pytest.mark.parametrize("beam", [2, 5, 33])
def test_a_row_that_one_beam_sees_leaves_the_others_alone(beam, part, poison, operators) -> None:
    torch.manual_seed(beam)
    query = torch.randn(3, beam, 2, 7)
    keys = torch.randn(9, 4, 2, 7)
    values = keys if part == "states" else torch.randn(9, 4, 2, 5)
    visible = torch.rand(3, beam, 9) < 0.6
    visible[..., 0] = True
    visible[1, :, 4], visible[1, 1, 4] = False, True
    (keys if part == "keys" else values)[4, 2] = poison
    rows = [Rows(keys, values, torch.tensor([3, 2, 0]))]
    clean = ops.attend(query[[0, 2]], [Rows(keys, values, torch.tensor([3, 0]))], visible[[0, 2]])
    found = ops.attend(query, rows, visible)
    assert not found.context[1, 1].isfinite().all()
    assert found.context[1, [b for b in range(beam) if b != 1]].isfinite().all()
    torch.testing.assert_close(found.context[[0, 2]], clean.context)
    if math.isnan(poison):
        assert_each_beam_is_right(query, rows, visible)


@pytest.mark.parametrize("seed", range(40))
def test_hidden_rows_count_as_not_there_in_random_calls(seed, operators) -> None:
    torch.manual_seed(seed)

    def pick(*choices: Any) -> Any:
        return choices[int(torch.randint(len(choices), ()))]

    dtype = pick(torch.float64, torch.float32, torch.float16, torch.bfloat16)
    groups, beam, heads = pick(1, 2, 3), pick(1, 2, 3, 13, 20), pick(1, 3)
    width, shared = pick(1, 7, 16, 35), pick(True, False)
    lengths = pick((5,), (1, 0, 30), (140, 9), (700,))
    total, columns = sum(lengths), groups + 1
    visible = torch.rand(groups, pick(1, beam), total) < 0.5
    visible[..., 0] = True
    rows: list[Rows] = []
    for length in lengths:
        kv_heads = pick(1, heads) if not rows else rows[0].keys.size(2)
        keys = torch.randn(length, columns, kv_heads, width).to(dtype)
        values = keys if shared else torch.randn(length, columns, kv_heads, width + 2).to(dtype)
        for x in (keys, values):
            x[torch.rand(x.shape[:3]) < pick(0.0, 0.02)] = math.nan
        rows.append(Rows(keys, values, torch.randperm(columns)[:groups]))
    query = (torch.randn(groups, beam, heads, width) / width**0.5).to(dtype)
    sinks = pick(None, torch.randn(groups, beam, heads, 2).to(dtype))
    bias = None
    if pick(True, False):
        bias = torch.randn(groups, heads, total, dtype=reference.softmax_dtype(dtype))
        bias[..., 1:][torch.rand(groups, heads, total - 1) < 0.2] = -math.inf
        bias.masked_fill_(~visible.any(1, keepdim=True), math.nan)
    assert_each_beam_is_right(query, rows, visible, sinks, bias)
