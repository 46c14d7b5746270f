"""Bad input gets a clear error, or exactly what stock fairseq does with it."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from clidata import OPTIMIZATION, SETUPS, USER_DIR, Workspace, run
from el_attention.fairseq_plugin.attention import ELAttention
from tiny import build, dictionary

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")


def outcome(command: str, arguments: list[str], stdin: str = "") -> Any:
    """What a command printed, or the kind and the text of its error."""
    try:
        return run(command, *arguments, stdin=stdin)
    except Exception as error:
        return type(error), str(error)


def assert_same_error(
    workspace: Workspace,
    setup: str,
    checkpoint: str,
    *options: str,
    match: str,
    stdin: str | None = None,
) -> None:
    """Asserts that stock and twin fail alike, saying `match`."""
    command = "generate" if stdin is None else "interactive"
    stock, ours = (
        outcome(command, workspace.generation(setup, checkpoint, *options, plan=plan), stdin or "")
        for plan in (None, "auto")
    )
    assert isinstance(stock, tuple), "stock must fail"
    assert ours == stock
    assert match in ours[1]


def not_a_file(workspace: Workspace, path: Path) -> None:
    pass


def text(workspace: Workspace, path: Path) -> None:
    path.write_text("a text")


def truncated(workspace: Workspace, path: Path) -> None:
    content = Path(workspace.checkpoint("transformer")).read_bytes()
    path.write_bytes(content[: len(content) // 2])


def parameters_only(workspace: Workspace, path: Path) -> None:
    torch.save(torch.load(workspace.checkpoint("transformer"))["model"], path)


def without_a_parameter(workspace: Workspace, path: Path) -> None:
    state = torch.load(workspace.checkpoint("transformer"))
    del state["model"]["decoder.layers.1.fc1.weight"]
    torch.save(state, path)


@pytest.mark.parametrize(
    ("write", "match"),
    [
        (not_a_file, "checkpoint.pt"),
        (text, ""),
        (truncated, "archive"),
        (parameters_only, "best_loss"),
        (without_a_parameter, "decoder.layers.1.fc1.weight"),
    ],
)
def test_wrong_checkpoint_fails_as_in_fairseq(
    workspace: Workspace,
    tmp_path: Path,
    write: Callable[[Workspace, Path], None],
    match: str,
) -> None:
    path = tmp_path / "checkpoint.pt"
    write(workspace, path)
    options = ["--path", str(path)]
    assert_same_error(workspace, "translation", "transformer", *options, match=match)


def test_checkpoint_of_another_dictionary_fails_as_in_fairseq(workspace: Workspace) -> None:
    assert_same_error(workspace, "joint", "transformer", match="size mismatch")


def test_missing_dictionary_is_named(workspace: Workspace, tmp_path: Path) -> None:
    options = ["--source-lang", "src", "--target-lang", "tgt"]
    for plan in (None, "auto"):
        _, *arguments = workspace.generation("translation", "transformer", *options, plan=plan)
        with pytest.raises(FileNotFoundError, match=r"dict\.src\.txt"):
            run("generate", str(tmp_path), *arguments)


def test_unknown_architecture_is_refused_and_twins_are_offered(
    workspace: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    task = SETUPS["translation"].arguments(workspace.root, "el_")
    with pytest.raises(SystemExit, match="2"):
        run("train", *task, "--user-dir", USER_DIR, "--arch", "el_nothing")
    message = capsys.readouterr().err
    assert "invalid choice: 'el_nothing'" in message
    assert "el_transformer" in message


def test_model_of_another_family_generates_as_in_fairseq_after_one_warning(
    workspace: Workspace, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    sizes = "--encoder-embed-dim 8 --encoder-hidden-size 8 --decoder-embed-dim 8 "
    sizes += "--decoder-hidden-size 8 --decoder-out-embed-dim 8"
    task = SETUPS["translation"].arguments(workspace.root)
    run(
        "train", *task, "--arch", "lstm", *sizes.split(), *OPTIMIZATION, "--save-dir", str(tmp_path)
    )
    options = ["--path", str(tmp_path / "checkpoint_last.pt")]
    stock, ours = (
        outcome("generate", workspace.generation("translation", "transformer", *options, plan=plan))
        for plan in (None, "auto")
    )
    assert len(stock) > 13
    assert ours == stock
    (warning,) = (
        record.message
        for record in caplog.records
        if record.levelno == logging.WARNING and record.name.startswith("el_attention")
    )
    assert "LSTMModel" in warning
    assert "expected a TransformerDecoder" in warning


@pytest.mark.parametrize("beam", ["20", "64", "1000"])
def test_any_beam_is_supported(workspace: Workspace, beam: str) -> None:
    # fairseq cuts a beam that is larger than the vocabulary.
    options = ["--beam", beam, "--nbest", beam]
    stock, ours = (
        outcome("generate", workspace.generation("translation", "transformer", *options, plan=plan))
        for plan in (None, "expanded-query")
    )
    hypotheses = [
        [line.split("\t")[2] for line in lines if line.startswith("H-")] for lines in (stock, ours)
    ]
    assert len(hypotheses[0]) > 13 * 15
    assert sorted(hypotheses[0]) == sorted(hypotheses[1])


@pytest.mark.parametrize("beam", ["0", "-1"])
def test_beam_below_one_is_refused(workspace: Workspace, beam: str) -> None:
    arguments = workspace.generation("translation", "transformer", "--beam", beam, plan="auto")
    with pytest.raises(ValueError, match=f"beam: expected at least 1, got {beam}"):
        run("generate", *arguments)


@pytest.mark.parametrize("dtype", [torch.int8, torch.complex64, torch.float8_e4m3fn])
def test_unsupported_dtype_gets_fairseqs_own_attention(dtype: torch.dtype) -> None:
    model = build("el_transformer", dictionary())
    attention = next(module for module in model.modules() if isinstance(module, ELAttention))
    assert attention.unsupported(torch.float32) is None
    assert attention.unsupported(dtype) == f"its states are {dtype}"
