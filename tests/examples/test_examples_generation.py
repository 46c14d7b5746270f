"""Each example from published files to scored text, in this process, stock and EL-attention."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from fairseq.models.bart import BARTModel

import exampledata
from clidata import OPTIMIZATION, SIZES, USER_DIR, run
from common import pairs, pieces, report, scores, subword
from common.acquire import Policy
from common.generated import Output, parse_output
from common.lines import read_lines, write_lines
from crossed import REST
from exampledata import binarise, encode_for_bart
from question_generation_squad import prepare as squad
from summarization_cnn_dm import prepare as cnn_dm
from summarization_gpt2 import convert
from summarization_xsum import prepare as xsum
from tiny import PLANS

pytestmark = [
    *REST,
    pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning"),
]

LENIENT = Policy(unverified=True)
BLOCKING = str(Path(pairs.__file__).parent / "ngram_blocking")  # for fairseq to import
STOCK_BLOCKING = ["--user-dir", BLOCKING, "--task", "translation_with_ngram_blocking"]

CNN_DM = "--beam 4 --lenpen 2.0 --max-len-b 140 --min-len 55 --no-repeat-ngram-size 3".split()
XSUM = "--beam 6 --lenpen 1.0 --max-len-b 60 --min-len 10 --no-repeat-ngram-size 3".split()


def generate(work: Path, *options: str) -> Output:
    """What fairseq-generate makes of the test split."""
    lines = run("generate", str(work / "binary"), "--cpu", *options)
    count = sum(line.startswith("H-") for line in lines)
    summary = f"Translated {count} sentences (0 tokens) in 1.0s (1.0 sentences/s, 1.0 tokens/s)"
    return parse_output("\n".join([*lines, summary]))


def with_plans(task: str) -> list[list[str]]:
    """The options of a task with each plan."""
    return [["--user-dir", USER_DIR, "--task", task, "--attention-plan", plan] for plan in PLANS]


def tokens(output: Output) -> list[str]:
    return [hypothesis.tokens for hypothesis in output.hypotheses.values()]


@pytest.fixture
def bart(tmp_path):
    exampledata.write_bart(tmp_path / "model")
    return tmp_path / "model"


@pytest.mark.parametrize(
    ("module", "write", "settings"),
    [(cnn_dm, exampledata.write_cnn_dm, CNN_DM), (xsum, exampledata.write_xsum, XSUM)],
    ids=["cnn_dm", "xsum"],
)
def test_bart_summaries(module, write, settings, bart, tmp_path):
    write(tmp_path / "published")
    found = module.pairs(tmp_path / "published", LENIENT)
    pairs.write_pairs(found, tmp_path / "data", module.PAIRS, LENIENT)
    encode_for_bart(tmp_path, bart)
    options = ["--path", str(bart / "model.pt"), *settings, "--prefix-size", "1"]
    options += "--source-lang source --target-lang target --batch-size 4".split()
    stock = generate(tmp_path, *STOCK_BLOCKING, *options)
    assert len(set(tokens(stock))) > 2
    for words in map(str.split, tokens(stock)):
        assert len(set(zip(words, words[1:], words[2:], strict=False))) == len(words) - 2
    for plan in with_plans("el_translation"):
        assert tokens(generate(tmp_path, *plan, *options)) == tokens(stock)
    texts = report.texts_of(stock, pieces.decoder(f"gpt2={bart}"))
    references = read_lines(tmp_path / "data" / "test.target")
    assert scores.score(texts, references, ["rouge"])["ROUGE-L"] >= 0


def test_bart_pieces_are_those_of_its_own_interface(bart, tmp_path):
    # The interface that the published scores were made with, one document after the other.
    exampledata.write_xsum(tmp_path / "published")
    found = xsum.pairs(tmp_path / "published", LENIENT)
    pairs.write_pairs(found, tmp_path / "data", xsum.PAIRS, LENIENT)
    encode_for_bart(tmp_path, bart)
    for side in pairs.SIDES:
        shutil.copy(bart / "dict.txt", bart / f"dict.{side}.txt")
    files = {"gpt2_encoder_json": "encoder.json", "gpt2_vocab_bpe": "vocab.bpe"}
    bpe = {option: str(bart / name) for option, name in files.items()}
    hub = BARTModel.from_pretrained(str(bart), "model.pt", str(bart), bpe="gpt2", **bpe)
    sources = [hub.encode(line) for line in read_lines(tmp_path / "data" / "test.source")]
    best = hub.generate(sources, beam=4, lenpen=2.0, max_len_b=40, min_len=20)
    expected = [hub.task.source_dictionary.string(found[0]["tokens"]) for found in best]

    options = ["--path", str(bart / "model.pt"), "--prefix-size", "1"]
    options += "--source-lang source --target-lang target --batch-size 4".split()
    options += "--beam 4 --lenpen 2.0 --max-len-b 40 --min-len 20".split()
    stock = generate(tmp_path, "--user-dir", USER_DIR, "--task", "translation", *options)
    assert tokens(stock) == expected


def test_gpt2_summaries(tmp_path):
    exampledata.write_cnn_dm(tmp_path / "published")
    found = cnn_dm.pairs(tmp_path / "published", LENIENT)
    pairs.write_pairs(found, tmp_path / "data", cnn_dm.PAIRS, LENIENT)
    exampledata.write_gpt2(tmp_path / "gpt2")
    model = tmp_path / "model"
    convert.convert(tmp_path / "gpt2", model)
    bpe = pieces.load_bpe(model)
    sources = read_lines(tmp_path / "data" / "test.source")
    # Prompts of different lengths.
    prompts = [
        pieces.encode_line(bpe, source, 30 - 3 * number, end="\nTL;DR:")
        for number, source in enumerate(sources)
    ]
    write_lines(tmp_path / "prompts", prompts)
    dictionary = ["--srcdict", model / "dict.txt", "--destdir", tmp_path / "binary"]
    binarise("--only-source", "--testpref", tmp_path / "prompts", *dictionary)
    options = ["--path", str(model / "model.pt"), "--sample-break-mode", "eos"]
    options += "--beam 4 --max-len-a 1 --max-len-b 12 --batch-size 4".split()
    stock = generate(tmp_path, "--user-dir", USER_DIR, "--task", "language_modeling", *options)
    for plan in with_plans("el_language_modeling"):
        assert tokens(generate(tmp_path, *plan, *options)) == tokens(stock)
    summaries = report.texts_of(stock, lambda text: text, prompts)
    assert all(summaries)
    assert len(set(summaries)) > 2
    assert len(report.texts_of(stock, pieces.decoder(f"gpt2={model}"), prompts, 3)) == 6


def test_questions(tmp_path):
    exampledata.write_squad(tmp_path / "published")
    found = squad.pairs(tmp_path / "published", LENIENT)
    pairs.write_pairs(found, tmp_path / "data", squad.PAIRS, LENIENT)
    (tmp_path / "subword").mkdir()
    model = subword.learn(tmp_path / "data", tmp_path / "subword" / "subword", 150, ["<sep>"])
    for name in (f"{split}.{side}" for split in pairs.SPLITS for side in pairs.SIDES):
        subword.encode(model, tmp_path / "data" / name, tmp_path / "subword" / name, 512)
    sources = read_lines(tmp_path / "subword" / "test.source")
    assert all(source.split().count("<sep>") == 1 for source in sources)
    languages = ["--source-lang", "source", "--target-lang", "target"]
    prefixes = [
        word for split in pairs.SPLITS for word in (f"--{split}pref", tmp_path / "subword" / split)
    ]
    binarise(*languages, *prefixes, "--joined-dictionary", "--destdir", tmp_path / "binary")
    training = [str(tmp_path / "binary"), "--task", "translation", *languages, *SIZES]
    positions = ["--max-source-positions", "514", "--save-dir", str(tmp_path / "train")]
    run("train", *training, "--arch", "transformer", *positions, *OPTIMIZATION)
    options = ["--path", str(tmp_path / "train" / "checkpoint_last.pt"), *languages]
    options += "--beam 4 --lenpen 1.0 --max-len-b 64".split()
    stock = generate(tmp_path, "--user-dir", USER_DIR, "--task", "translation", *options)
    for plan in with_plans("el_translation"):
        assert tokens(generate(tmp_path, *plan, *options)) == tokens(stock)
    texts = report.texts_of(stock, pieces.decoder("sentencepiece"))
    references = read_lines(tmp_path / "data" / "test.target")
    # Sixty updates teach how a question begins and what it is made of.
    assert scores.score(texts, references, ["bleu", "rouge"])["ROUGE-1"] > 30
