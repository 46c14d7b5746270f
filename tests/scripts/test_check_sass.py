"""The check of machine code finds what must not be there."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

TOOLS = Path(__file__).resolve().parents[2] / "scripts" / "tools"
GOOD = """\
.text.kernel:
        /*0000*/                   MUFU.RCP R0, R1 ;
.L_x_1:
        /*0010*/                   LDS.128 R4, [R2] ;
.L_x_2:
        /*0020*/              @!P0 BRA `(.L_x_2) ;
        /*0030*/                   HMMA.16816.F32 R4, R8, R12, R4 ;
        /*0040*/                   BAR.SYNC.DEFER_BLOCKING 0x0 ;
        /*0050*/               @P1 BRA `(.L_x_1) ;
        /*0060*/                   STG.E [R2], R4 ;
        /*0070*/                   EXIT ;
"""


@pytest.fixture
def check_sass(monkeypatch) -> ModuleType:
    """The module scripts/tools/check_sass.py."""
    spec = importlib.util.spec_from_file_location("check_sass", TOOLS / "check_sass.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "check_sass", module)  # dataclasses look there
    spec.loader.exec_module(module)
    return module


def test_the_loop_over_rows_is_the_one_with_the_matrices(check_sass) -> None:
    code = check_sass.parse(GOOD)["kernel"]
    opcodes = [opcode.split(".")[0] for opcode in code.row_loop()]
    assert opcodes == ["LDS", "BRA", "HMMA", "BAR", "BRA"]
    assert check_sass.faults_of("kernel", code) == []


@pytest.mark.parametrize(
    ("instruction", "fault"),
    [
        ("LD.E.128 R4, desc[UR4][R2.64]", "kernel: 1 generic accesses of memory"),
        ("@P2 ST.E [R2.64], R4", "kernel: 1 generic accesses of memory"),
        ("LDL R4, [R1]", "kernel: 1 accesses of local memory"),
        ("MUFU.RCP R4, R5", "kernel: 1 parts of divisions in the loop over rows"),
        ("I2F.U32.RP R4, R5", "kernel: 1 parts of divisions in the loop over rows"),
    ],
)
def test_what_must_not_be_in_a_kernel_is_named(check_sass, instruction, fault) -> None:
    text = GOOD.replace("LDS.128 R4, [R2]", instruction)
    assert check_sass.faults_of("kernel", check_sass.parse(text)["kernel"]) == [fault]
