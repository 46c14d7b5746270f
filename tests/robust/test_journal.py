"""Generation that is killed and started again prints what an undisturbed run prints."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import resource
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch

from clidata import SINGLE_SENTENCES, Workspace, run, run_once
from crossed import crossed
from el_attention.robust.description import weights_digest
from el_attention.robust.journal import MAGIC, Journal
from el_attention.robust.tensors import from_json, to_json
from tiny import build, dictionary

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")

SETTINGS = {"beam": "4", "weights": "abc"}


# The file


def reopened(path: Path, settings: dict[str, str] | None = None) -> Journal:
    return Journal(path, SETTINGS if settings is None else settings)


def test_entries_come_back_once_each_in_order(tmp_path) -> None:
    journal = reopened(tmp_path / "journal")
    journal.add([("a", 1), ("b", [2])])
    journal.add([("a", None)], moment="then")
    assert journal.take("a") is None  # entries are for the next run
    journal.close()
    journal = reopened(tmp_path / "journal")
    assert journal.recovered == 3
    assert [journal.take(key) for key in "aaabb"] == [
        (1, None, 2), (None, "then", 3), None, ([2], None, 2), None,
    ]  # fmt: skip


def test_any_cut_leaves_the_complete_lines_and_room_for_new_ones(tmp_path) -> None:
    path = tmp_path / "journal"
    journal = reopened(path)
    for number in range(3):
        journal.add([(str(number), number)])
    journal.close()
    whole = path.read_bytes()
    for size in range(len(whole) + 1):
        path.write_bytes(whole[:size])
        if 0 < size < len(MAGIC):
            with pytest.raises(ValueError, match="is no journal"):
                reopened(path)
            assert path.read_bytes() == whole[:size]
            continue
        journal = reopened(path)
        complete = max(0, whole[:size].count(b"\n") - 1)
        assert journal.recovered == complete
        journal.add([("new", "ü")])
        journal.close()
        journal = reopened(path)
        assert journal.recovered == complete + 1
        assert journal.take("new") == ("ü", None, 2 + complete)
        journal.close()


def test_a_tail_of_zeros_is_dropped(tmp_path) -> None:
    path = tmp_path / "journal"
    journal = reopened(path)
    journal.add([("a", 1)])
    journal.close()
    with path.open("ab") as file:
        file.write(bytes(100))
    journal = reopened(path)
    assert journal.recovered == 1


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"beam": "5", "weights": "abc"}, "beam was '4' there and is '5' here"),
        ({"weights": "abc"}, "beam was '4' there and is None here"),
        ({**SETTINGS, "seed": "1"}, "seed was None there and is '1' here"),
    ],
)
def test_a_journal_of_other_settings_is_refused(tmp_path, settings, message) -> None:
    reopened(tmp_path / "journal").close()
    before = (tmp_path / "journal").read_bytes()
    with pytest.raises(ValueError, match=message):
        reopened(tmp_path / "journal", settings)
    assert (tmp_path / "journal").read_bytes() == before


@pytest.mark.parametrize(
    "content",
    [
        b"a file of\nsomething else\n",
        b"a text without a line's end",
        b'{"some": "JSON"}\n',
        b'{"journal":1,"settings":{"beam":"4","weights":"abc"}}\n',
        b"\x80\x02}q\x00.\n\xff",
        bytes(100),
        b"\n",
        MAGIC[:-1],
        b" " + MAGIC,
    ],
)
def test_a_file_that_is_no_journal_is_refused_and_kept(tmp_path, content) -> None:
    path = tmp_path / "journal"
    path.write_bytes(content)
    for _ in range(2):
        with pytest.raises(ValueError, match=f"journal {path}: is no journal"):
            reopened(path)
        assert path.read_bytes() == content


def test_an_empty_file_is_a_new_journal(tmp_path) -> None:
    path = tmp_path / "journal"
    path.touch()
    reopened(path).close()
    assert path.read_bytes().startswith(MAGIC)


def test_another_process_must_not_write_the_same_journal(tmp_path) -> None:
    journal = reopened(tmp_path / "journal")
    with pytest.raises(OSError, match="another process is writing it"):
        reopened(tmp_path / "journal")
    journal.close()
    reopened(tmp_path / "journal").close()


def test_a_refused_journal_is_closed(tmp_path) -> None:
    reopened(tmp_path / "journal").close()
    with pytest.raises(ValueError, match="another run"):
        reopened(tmp_path / "journal", {})
    reopened(tmp_path / "journal").close()


@pytest.mark.parametrize("path", ["no/such/folder/journal", "."])
def test_a_path_that_cannot_be_opened_is_named(tmp_path, path) -> None:
    with pytest.raises(OSError, match=f"journal .*{path}: (cannot be opened|expected a file)"):
        reopened(tmp_path / path)


def test_a_device_is_no_file() -> None:
    with pytest.raises(OSError, match="expected a file"):
        reopened(Path("/dev/full"))


def test_tensors_come_back_exactly() -> None:
    values = [0.1, -1e-30, float("inf"), float("nan"), 3.0]
    hypothesis: dict[str, Any] = {
        name: torch.tensor(values).to(getattr(torch, name))
        for name in ("float16", "bfloat16", "float32", "float64")
    }
    hypothesis |= {
        "tokens": torch.tensor([5, 2**40]), "score": torch.tensor(-0.3), "attention": None,
        "empty": torch.zeros(0, 3), "alignment": [(1, 2)],
    }  # fmt: skip
    back = from_json(json.loads(json.dumps(to_json([hypothesis]))), torch.device("cpu"))[0]
    assert back.pop("attention") is None and back.pop("alignment") == [[1, 2]]
    for name, tensor in back.items():
        expected = hypothesis[name]
        assert (tensor.dtype, tensor.shape) == (expected.dtype, expected.shape)
        assert (
            tensor.numpy(force=True).tobytes() == expected.numpy().tobytes()
            if (tensor.dtype != torch.bfloat16)
            else torch.equal(tensor.nan_to_num(7), expected.nan_to_num(7))
        )


def test_the_digest_of_weights_sees_every_number() -> None:
    model = build("transformer", dictionary())
    digest = weights_digest([model])
    assert weights_digest([build("transformer", dictionary())]) == digest
    with torch.no_grad():
        parameter = list(model.parameters())[-1]
        parameter.view(-1)[-1] += 1e-3
    assert weights_digest([model]) != digest


def test_the_digest_of_weights_leaves_out_what_is_never_set() -> None:
    digests = []
    for value in (0.0, 1.0):
        model = build("transformer", dictionary())
        model.register_buffer("_float_tensor", torch.full((1,), value))
        digests.append(weights_digest([model]))
    assert digests[0] == digests[1]


# Whole runs


def generation(workspace: Workspace, *options: str, setup: str = "translation") -> list[str]:
    checkpoint = "transformer" if setup == "translation" else setup
    return workspace.generation(setup, checkpoint, *options, plan="shared-projection")


def in_a_process(
    arguments: list[str], output: Path, prepare: Callable[[], None] = lambda: None
) -> multiprocessing.process.BaseProcess:
    """Starts fairseq-generate in a copy of this process; it writes what it prints, or its error."""

    def target() -> None:
        os.setpgid(0, 0)
        prepare()
        try:
            output.write_text("\n".join(run("generate", *arguments)))
        except OSError as error:
            output.with_suffix(".error").write_text(str(error))
            os._exit(1)
        os._exit(0)

    process = multiprocessing.get_context("fork").Process(target=target)
    process.start()
    return process


def finish(arguments: list[str], output: Path) -> list[str]:
    process = in_a_process(arguments, output)
    process.join(300)
    assert process.exitcode == 0
    return output.read_text().splitlines()


def lines_of(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0


def slowed() -> None:
    """Makes a process so slow that it is killed before it ends, and sometimes while it writes."""
    fsync = os.fsync

    def slow(file: int) -> None:
        time.sleep(0.02)
        fsync(file)
        time.sleep(0.02)

    mock.patch.object(os, "fsync", slow).start()


FEATURES = {
    "beam": "--beam 4 --nbest 2",
    "sampling": "--sampling --beam 3 --nbest 3 --seed 7",
    "retained dropout": "--retain-dropout --seed 3",
    "hard alignment": "--print-alignment hard",
    "soft alignment": "--print-alignment soft",
    "prefix": "--prefix-size 2 --max-len-a 1.2 --max-len-b 5",
    "match source length": "--match-source-len",
    "score reference": "--score-reference",
}


@pytest.mark.parametrize("feature", crossed(FEATURES))
def test_killed_twice_at_random_points(workspace, tmp_path, feature) -> None:
    options = [*FEATURES[feature].split(), "--batch-size", "2"]
    expected = run("generate", *generation(workspace, *options))
    choose = random.Random(feature)
    journal = tmp_path / "journal"
    arguments = generation(workspace, *options, "--journal", str(journal))
    written = 1  # lines
    for _ in range(2):
        process = in_a_process(arguments, tmp_path / "output", slowed)
        # At least one more batch is finished; how far the next one is, is chance.
        while process.is_alive() and lines_of(journal) <= written:
            time.sleep(0.001)
        time.sleep(choose.random() * 0.08)
        process.kill()
        process.join()
        written = lines_of(journal)
    assert not (tmp_path / "output").exists(), "both were to be killed before they end"
    assert finish(arguments, tmp_path / "output") == expected
    # What is complete is printed again without any computing.
    before = journal.read_bytes()
    assert run("generate", *arguments) == expected
    assert journal.read_bytes() == before


def killed_in(step: str, number: int) -> Callable[[], None]:
    """Returns what makes a process kill itself in the middle or after the n-th write."""

    def prepare() -> None:
        calls, fsync = [0], os.fsync

        def dying(file: int) -> None:
            calls[0] += 1
            if calls[0] == number:
                if step == "write":
                    os.ftruncate(file, os.fstat(file).st_size - 40)
                os.kill(os.getpid(), signal.SIGKILL)
            fsync(file)

        mock.patch.object(os, "fsync", dying).start()

    return prepare


@pytest.mark.parametrize(("step", "number"), crossed(["write", "sync"], [3, 5, 9]))
def test_killed_while_writing(workspace, tmp_path, step, number) -> None:
    expected = run_once("generate", *generation(workspace, "--batch-size", "2"))
    options = ("--batch-size", "2", "--journal", str(tmp_path / "journal"))
    arguments = generation(workspace, *options)
    process = in_a_process(arguments, tmp_path / "output", killed_in(step, number))
    process.join(300)
    assert process.exitcode == -signal.SIGKILL
    assert finish(arguments, tmp_path / "output") == expected


def test_a_full_disk_is_an_error_that_loses_nothing(workspace, tmp_path) -> None:
    expected = run_once("generate", *generation(workspace, "--batch-size", "2"))
    journal = tmp_path / "journal"
    arguments = generation(workspace, "--batch-size", "2", "--journal", str(journal))

    run("generate", *arguments)
    first, *records = journal.read_bytes().splitlines(keepends=True)
    journal.unlink()
    limit = len(first) + sum(map(len, records[:3])) + len(records[3]) // 2

    def limited() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    process = in_a_process(arguments, tmp_path / "output", limited)
    process.join(300)
    assert process.exitcode == 1
    error = (tmp_path / "output.error").read_text()
    assert "cannot be written (File too large); what was finished before is safe" in error
    assert lines_of(journal) == 4 and journal.read_bytes().endswith(b"\n")
    assert finish(arguments, tmp_path / "output") == expected


@pytest.mark.parametrize("setup", crossed(["mbart", "multi", "lm"]))
def test_other_families_and_tasks(workspace, tmp_path, setup) -> None:
    if setup == "lm" and not SINGLE_SENTENCES:
        pytest.skip("fairseq reads np.compat, which numpy 2 has not")
    own = {"multi": ["-s", "en", "-t", "de"], "lm": ["--sample-break-mode", "eos"]}.get(setup, [])
    arguments = generation(workspace, *own, "--batch-size", "3", setup=setup)
    expected = run("generate", *arguments)
    arguments += ["--journal", str(tmp_path / "journal")]
    process = in_a_process(arguments, tmp_path / "output", killed_in("sync", 4))
    process.join(300)
    assert process.exitcode == -signal.SIGKILL
    assert finish(arguments, tmp_path / "output") == expected


def test_interactive_continues(workspace, tmp_path) -> None:
    stdin = "s3 s1 s4\n\ns6 s5\ns3 s1 s4\ns9\n"
    plain = workspace.generation("translation", "transformer", plan="auto")
    expected = run("interactive", *plain, stdin=stdin)
    arguments = [*plain, "--journal", str(tmp_path / "journal")]
    run("interactive", *arguments, stdin="".join(stdin.splitlines(keepends=True)[:2]))
    assert run("interactive", *arguments, stdin=stdin) == expected
    assert len((tmp_path / "journal").read_bytes().splitlines()) == 1 + 5


def test_training_is_refused(workspace, tmp_path) -> None:
    training = [
        "el_translation" if word == "translation" else word
        for word in workspace.training("transformer")
    ]
    options = ["--user-dir", generation(workspace)[generation(workspace).index("--user-dir") + 1]]
    with pytest.raises(ValueError, match="expected a generation, got training"):
        run(
            "train",
            *training,
            *options,
            *("--save-dir", str(tmp_path), "--journal", str(tmp_path / "journal")),
        )
