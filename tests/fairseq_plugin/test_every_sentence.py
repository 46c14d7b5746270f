"""fairseq-generate prints every sentence, whatever batches the options leave them in."""

from __future__ import annotations

import logging
import random
import re
from collections.abc import Sequence

import numpy
import pytest
from fairseq.data import FairseqDataset

from clidata import SINGLE_SENTENCES, Workspace, run, run_once
from crossed import crossed
from el_attention.fairseq_plugin.every_sentence import EverySentence
from printed import EVERY_SENTENCE, assert_same_lines, by_sentence, printed

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")

# With --max-tokens 24 fairseq loses the last batch; in a multiple of 16 it loses all sentences.
BATCHES = [
    "--required-batch-size-multiple 8",
    "--required-batch-size-multiple 16",
    "--required-batch-size-multiple 8 --batch-size 3",
    "--required-batch-size-multiple 8 --max-tokens 24",
    "--required-batch-size-multiple 8 --max-tokens 9",
    "--required-batch-size-multiple 8 --batch-by-memory",
]


def generate(workspace: Workspace, setup: str, checkpoint: str, options: str) -> list[str]:
    return run("generate", *workspace.generation(setup, checkpoint, *options.split(), plan="auto"))


@pytest.mark.parametrize(
    ("setup", "checkpoint", "options", "batches"), crossed(EVERY_SENTENCE, BATCHES)
)
def test_every_sentence_is_printed_once(workspace, setup, checkpoint, options, batches) -> None:
    if setup == "lm" and not SINGLE_SENTENCES:
        pytest.skip("fairseq reads np.compat, which numpy 2 has not")
    one_by_one = [*options.split(), "--batch-size", "1"]
    alone = run_once("generate", *workspace.generation(setup, checkpoint, *one_by_one, plan="auto"))
    lines = generate(workspace, setup, checkpoint, f"{options} {batches}")
    assert sorted(printed(lines)) == list(range(13))
    assert_same_lines(by_sentence(alone), by_sentence(lines), [setup, options, batches])


@pytest.mark.parametrize("batches", ["", "--max-tokens 24"])
def test_batches_that_stock_does_not_drop_stay(workspace, batches) -> None:
    options = ["--required-batch-size-multiple", "4", *batches.split()]
    stock = run("generate", *workspace.generation("translation", "transformer", *options))
    ours = run(
        "generate", *workspace.generation("translation", "transformer", *options, plan="auto")
    )
    *stock, _ = stock  # a score of the sentences that there are
    assert 0 < len(printed(stock)) < 13
    assert_same_lines(stock, ours[: len(stock)], options)


def test_sentences_of_more_than_max_tokens_are_named_in_one_warning(workspace, caplog) -> None:
    with caplog.at_level(logging.WARNING):
        lines = generate(workspace, "translation", "transformer", "--max-tokens 9")
    assert len(printed(lines)) == 13
    (warning,) = (r.getMessage() for r in caplog.records if "of their own" in r.getMessage())
    lengths = {
        int(match[1]): len(match[2].split()) + 1
        for line in lines
        if (match := re.fullmatch(r"S-(\d+)\t(.*)", line))
    }
    long = [number for number, length in lengths.items() if length > 9]
    count, *numbers = re.findall(r"\d+", warning.replace("--max-tokens 9", ""))
    assert int(count) == len(long) > 1
    assert sorted(map(int, numbers)) == sorted(long)


def test_sentences_of_more_than_the_positions_are_named_in_one_warning(workspace, caplog) -> None:
    options = "--max-source-positions 6 --skip-invalid-size-inputs-valid-test"
    with caplog.at_level(logging.WARNING):
        lines = generate(workspace, "translation", "transformer", options)
    (warning,) = (r.getMessage() for r in caplog.records if "invalid sizes" in r.getMessage())
    missing = set(range(13)) - set(printed(lines))
    assert 0 < len(missing) < 10
    assert warning.startswith(f"{len(missing)} samples")
    numbers = warning[warning.index("ids=") :]
    assert set(map(int, re.findall(r"\d+", numbers))) == missing


def test_training_keeps_fairseqs_batches(workspace, tmp_path, caplog) -> None:
    training = [
        "el_translation" if word == "translation" else word
        for word in workspace.training("transformer")
    ]
    command = workspace.generation("translation", "transformer", plan="auto")
    user_dir = command[command.index("--user-dir") :][:2]
    options = "--max-tokens 3000 --batch-size 32 --required-batch-size-multiple 8 --max-update 1"
    caplog.clear()
    with caplog.at_level(logging.INFO):
        run("train", *training, *user_dir, "--save-dir", str(tmp_path), *options.split())
    # 32 sentences and 24; the other 4 of the 60 are no multiple of 8.
    assert re.findall(r"grouped total_num_itrs = (\d+)", caplog.text) == ["2"]


class Lengths(FairseqDataset):
    """Sentences of which nothing but the lengths is known."""

    def __init__(self, lengths: Sequence[int]) -> None:
        self.sizes = numpy.array(lengths)

    def num_tokens(self, index: int) -> int:
        return int(self.sizes[index])


@pytest.mark.parametrize("seed", range(30))
def test_random_data_are_cut_into_batches_that_hold_everything_once(seed) -> None:
    choose = random.Random(seed)
    lengths = [choose.randint(1, 12) for _ in range(choose.randint(0, 60))]
    max_tokens = choose.choice([None, 1, 8, 30, 100])
    max_sentences = choose.choice([None, 1, 3, 16]) if max_tokens else choose.choice([1, 3, 16])
    order = sorted(range(len(lengths)), key=lengths.__getitem__)
    batches = EverySentence(Lengths(lengths)).batch_by_size(
        order, max_tokens, max_sentences, choose.choice([1, 2, 8])
    )
    assert sorted(int(i) for batch in batches for i in batch) == list(range(len(lengths)))
    for batch in batches:
        size = len(batch) * max(lengths[i] for i in batch)
        assert len(batch) == 1 or not max_tokens or size <= max_tokens
        assert not max_sentences or len(batch) <= max_sentences
