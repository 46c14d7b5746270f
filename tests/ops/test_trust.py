"""Operators that are wrong on a device are noticed at its first use, and off from then on."""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from el_attention import ops
from el_attention.ops import check, compiled, extension, reference, trust
from el_attention.ops.trust import Trust, unsupported_gpu
from emulated import Emulation, accumulator
from emulator_build import require
from oracle import DTYPES, Call, expanded, random_call

CPU = torch.device("cpu")
BROKEN = torch.device("meta")  # nothing can be computed there

pytestmark = pytest.mark.skipif(
    extension.unsupported is not None, reason=f"the compiled operators are {extension.unsupported}"
)


class Planted:
    """The compiled operators, some of them replaced."""

    def __init__(self, **operators: Callable[..., Any]) -> None:
        self.operators = operators

    def __getattr__(self, name: str) -> Any:
        return self.operators.get(name) or getattr(COMPILED, name)


COMPILED = torch.ops.el_attention


def attend_without(position: int) -> Callable[..., Any]:
    """An `attend` that does not look at its visible (4) or its bias (5)."""

    def attend(*arguments: Any) -> Any:
        kept = list(arguments)
        if position == 4 and kept[4] is not None:  # what nobody sees is NaN
            kept[4] = kept[4].any(1, keepdim=True)
        else:
            kept[position] = None
        return COMPILED.attend(*kept)

    return attend


def attend_without_the_last_row(query, keys, values, columns, visible, bias) -> Any:
    keys, values = ([*x[:-1], x[-1][:-1]] for x in (keys, values))
    visible = visible if visible is None else visible[..., :-1].contiguous()
    bias = bias if bias is None else bias[..., :-1]
    return COMPILED.attend(query, keys, values, columns, visible, bias)


def attend_as_if_contiguous(query, *others: Any) -> Any:
    return COMPILED.attend(query.as_strided(query.shape, query.contiguous().stride()), *others)


def scaled_attend(*arguments: Any) -> Any:
    context, lse = COMPILED.attend(*arguments)
    return context * 1.02, lse


def nan_somewhere(*arguments: Any) -> Any:
    context, lse = COMPILED.attend(*arguments)
    context.view(-1)[-1] = torch.nan
    return context, lse


def higher_index_first(logits: Tensor, lse: Tensor, scores: Tensor, beam: int, k: int) -> Any:
    """What is right but for the order of equal candidates."""
    values, index = COMPILED.top_candidates(logits, lse, scores, beam, k)
    ties = values[:, 1:] == values[:, :-1]
    assert ties.any()
    row, at = ties.nonzero()[0].tolist()
    index[row, [at, at + 1]] = index[row, [at + 1, at]]
    return values, index


def fails(*arguments: Any) -> Any:
    raise RuntimeError("attend: no kernel image is available for execution on the device")


WRONG: dict[str, tuple[str, Callable[..., Any]]] = {
    "ignores who sees what": ("attend", attend_without(4)),
    "ignores the bias": ("attend", attend_without(5)),
    "loses the last row": ("attend", attend_without_the_last_row),
    "ignores the strides of a query": ("attend", attend_as_if_contiguous),
    "is 2% off": ("attend", scaled_attend),
    "leaves a NaN": ("attend", nan_somewhere),
    "cannot be launched": ("attend", fails),
    "gives another shape": ("weights", lambda *x: COMPILED.weights(*x)[..., :-1]),
    "gives weights of nothing": ("weights", lambda *x: torch.zeros_like(COMPILED.weights(*x))),
    "forbids nothing": ("block_ngrams_", lambda *x: None),
    "forgets what is forced": ("block_ngrams_", lambda *x: COMPILED.block_ngrams_(*x[:4], None)),
    "loses a token": ("log_sum_exp", lambda x: COMPILED.log_sum_exp(x[:, :-1])),
    "prefers the higher index": ("top_candidates", higher_index_first),
}


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_right_operators_pass_in_under_a_second(dtype) -> None:
    state, start = torch.get_rng_state(), time.thread_time()
    outcomes = [check.run(operator, CPU, dtype) for operator in check.OPERATORS]
    assert time.thread_time() - start < 1
    assert torch.equal(torch.get_rng_state(), state)
    assert [outcome.fault for outcome in outcomes] == [None] * len(outcomes)
    assert all(outcome.error < 0.5 and outcome.calls for outcome in outcomes)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", WRONG)
def test_an_operator_that_is_wrong_is_noticed(name, dtype) -> None:
    operator, function = WRONG[name]
    outcome = check.run(operator, CPU, dtype, operators=Planted(**{operator: function}))
    assert outcome.fault is not None and outcome.error == float("inf")
    if name == "cannot be launched":
        assert "no kernel image is available" in outcome.fault


def planted(name: str) -> Trust:
    operator, function = WRONG[name]
    attempt = partial(check.run, operators=Planted(**{operator: function}))
    return Trust(lambda index: None, attempt)


def test_one_warning_says_what_to_report_and_the_operator_is_off(caplog) -> None:
    gpus = planted("loses a token")
    reasons = [gpus.unsupported(("log_sum_exp",), CPU, torch.float32) for _ in range(3)]
    assert len(set(reasons)) == 1
    assert reasons[0] is not None and reasons[0].startswith("wrong on cpu in torch.float32")
    assert gpus.unsupported(("attend", "weights"), CPU, torch.float32) is None
    [record] = caplog.records
    assert record.levelno == logging.WARNING
    assert "the compiled operator log_sum_exp is off" in record.message
    assert "el-attention doctor --gpu" in record.message


def test_weights_that_are_wrong_leave_attention_without_weights() -> None:
    gpus = planted("gives weights of nothing")
    assert gpus.unsupported(("attend",), CPU, torch.float32) is None
    assert "weights" in (gpus.unsupported(("attend", "weights"), CPU, torch.float32) or "")


def test_threads_that_come_together_try_a_device_once() -> None:
    tried: list[tuple[Any, ...]] = []

    def attempt(operator: str, device: torch.device, dtype: torch.dtype) -> check.Outcome:
        tried.append((operator, device, dtype))
        time.sleep(0.01)
        return check.Outcome(operator, dtype, 1, 0.0, "wrong" if operator == "attend" else None)

    gpus, found = Trust(lambda index: None, attempt), []
    dtypes = [torch.float32, torch.float16] * 4

    def ask(dtype: torch.dtype) -> None:
        found.append(gpus.unsupported(("attend",), CPU, dtype))

    threads = [threading.Thread(target=ask, args=(dtype,)) for dtype in dtypes]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(tried) == len(set(tried)) == 2 * len(check.OPERATORS)
    assert len(found) == 8 and None not in found


def test_a_gpu_that_kernels_were_not_built_for_is_named_once(monkeypatch, caplog) -> None:
    module = SimpleNamespace(
        unsupported_gpu=lambda index: "no kernel image is available" if index == 7 else None,
        build_information=lambda: {"gpu_architectures": [80, 90]},
    )
    monkeypatch.setitem(sys.modules, "el_attention._C", module)
    gpus = Trust(
        unsupported_gpu,
        lambda operator, device, dtype: check.Outcome(operator, dtype, 1, 0.0, None),
    )
    for dtype in DTYPES:
        assert gpus.unsupported(("attend",), torch.device("cuda:0"), dtype) is None
        assert gpus.unsupported(("attend",), torch.device("cuda:7"), dtype) == (
            "not for cuda:7: no kernel image is available (built for sm_80 sm_90)"
        )
    [record] = caplog.records
    assert "cuda:7: the compiled operators cannot run there" in record.message


def test_the_variable_skips_the_check_or_the_operators(monkeypatch) -> None:
    def never(*arguments: Any) -> check.Outcome:
        raise AssertionError("an operator was tried")

    gpus = Trust(lambda index: None, never)
    monkeypatch.setenv("EL_ATTENTION_GPU", "unchecked")
    assert gpus.unsupported(("attend",), CPU, torch.float32) is None
    monkeypatch.setenv("EL_ATTENTION_GPU", "off")
    assert gpus.unsupported(("attend",), CPU, torch.float32) == "off by EL_ATTENTION_GPU"
    monkeypatch.setenv("EL_ATTENTION_GPU", "perhaps")
    with pytest.raises(ValueError, match="expected unchecked or off, got 'perhaps'"):
        gpus.unsupported(("attend",), CPU, torch.float32)


def test_a_device_that_a_kernel_has_broken_is_an_error_with_a_way_out(caplog) -> None:
    gpus = Trust(
        lambda index: None,
        lambda operator, device, dtype: check.Outcome(operator, dtype, 1, 0.0, "illegal address"),
    )
    with pytest.raises(RuntimeError, match=r"attend has broken .*EL_ATTENTION_GPU=off"):
        gpus.unsupported(("attend",), BROKEN, torch.float32)


@pytest.fixture
def cpu_as_gpu(monkeypatch) -> Callable[[str], None]:
    """Plants a wrong operator, and has those of the CPU tried as those of a GPU are."""

    def plant(name: str) -> None:
        operator, function = WRONG[name]
        monkeypatch.setattr(torch.ops, "el_attention", Planted(**{operator: function}))
        monkeypatch.setattr(trust, "GPUS", Trust(lambda index: None))
        monkeypatch.setattr(compiled, "TRIED", ("cpu",))

    return plant


def attended(call: Call, need_weights: bool) -> ops.Attended:
    rows = [ops.Rows(*x) for x in zip(call.keys, call.values, call.columns, strict=True)]
    return ops.attend(call.query, rows, call.visible, need_weights=need_weights)


@pytest.mark.parametrize("name", [name for name in WRONG if WRONG[name][0] == "attend"])
def test_calls_go_on_with_the_reference(cpu_as_gpu, name) -> None:
    call = random_call(expanded(2, 3, 4, 64, 20, 3), torch.float32)
    rows = [ops.Rows(*x) for x in zip(call.keys, call.values, call.columns, strict=True)]
    expected = reference.attend(call.query, rows, call.visible)
    cpu_as_gpu(name)
    found = attended(call, True)
    assert torch.equal(found.context, expected.context)
    assert found.weights is not None and expected.weights is not None
    assert torch.equal(found.weights, expected.weights)


def test_right_operators_are_used_with_their_own_bits(cpu_as_gpu) -> None:
    call = random_call(expanded(2, 3, 4, 64, 20, 3), torch.float32)
    expected = call.attend()[0]
    cpu_as_gpu("loses a token")
    assert torch.equal(attended(call, False).context, expected)
    logits = torch.randn(6, 40)
    assert torch.equal(ops.log_sum_exp(logits), reference.log_sum_exp(logits))


def test_compilers_take_the_tries_for_constant() -> None:
    """Marked by hand, as torch marks functions whose results are constants to its compiler."""
    marked = torch.compiler.assume_constant_result(lambda: None)
    assert vars(compiled._distrust) == vars(marked) != {}


def test_an_operator_is_tried_with_numbers_where_a_compiler_comes_first(cpu_as_gpu) -> None:
    cpu_as_gpu("loses a token")
    with FakeTensorMode():
        assert trust.GPUS.unsupported(("attend",), CPU, torch.float32) is None
        assert trust.GPUS.unsupported(("log_sum_exp",), CPU, torch.float32) is not None

    @torch.compile(backend="eager")
    def doubled(logits: Tensor) -> Tensor:
        return 2 * ops.log_sum_exp(logits)

    logits = torch.randn(6, 40)
    assert torch.equal(doubled(logits), 2 * reference.log_sum_exp(logits))


class Emulated:
    """The operators, with the CUDA kernels under the emulator."""

    machine = Emulation("a100")

    def attend(self, query, keys, values, columns, visible, bias) -> tuple[Tensor, Tensor]:
        result = self.machine.attend(Call(query, keys, values, columns, visible, bias))
        return result["context"], result["lse"]

    def weights(self, query, keys, columns, visible, bias, lse) -> Tensor:
        return self.machine.weights(Call(query, keys, keys, columns, visible, bias), lse)

    def block_ngrams_(self, lprobs, tokens, size, length, forced) -> None:
        lprobs.copy_(self.machine.block_ngrams(lprobs, tokens, size, length, forced))

    def log_sum_exp(self, logits: Tensor) -> Tensor:
        return self.machine.log_sum_exp(logits).to(accumulator(logits.dtype))

    def top_candidates(self, logits, lse, scores, beam: int, k: int) -> tuple[Tensor, Tensor]:
        result = self.machine.top_candidates(logits, lse, scores, beam, k)
        return result["values"], result["index"]


@pytest.mark.parametrize("operator", check.OPERATORS)
def test_emulated_kernels_pass(operator) -> None:
    require()
    for dtype in (torch.float16, torch.float32):
        outcome = check.run(operator, CPU, dtype, operators=Emulated())
        assert outcome.fault is None
