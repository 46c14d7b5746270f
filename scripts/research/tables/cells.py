"""The cells of the paper's tables, and the profiles that say at which size they are measured."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import research.paper_figures as paper
from el_attention.attention import PLANS
from el_attention.cost import ARCHITECTURES, GIB, Architecture, Stack

# The systems that are compared, which `systems.py` builds: three of multi-head attention, and each
# plan of this package.
NO_CACHE = "no cache"
PER_BEAM = "cache per beam"
STOCK = "fairseq 0.12"
SYSTEMS = (PER_BEAM, STOCK, *PLANS)

SEARCHES = {"beam": "beam", "diverse_beam": "diverse beam", "greedy": "greedy"}
TABLES = (*SEARCHES, "batch_size", "memory")
# In the shape of the paper's batch-size table, for processes of limited memory.
CAPPED = "capped"
LIMITS = (GIB // 2, GIB)


@dataclass(frozen=True)
class Cell:
    """A figure to be measured, in the coordinates of the paper.

    Attributes:
        table: one of `TABLES`, or `CAPPED`.
        arch: the model, as in `el_attention.cost.ARCHITECTURES`.
        task: the data set, as in the paper.
        dtype: the dtype of weights and states.
        search: "beam", "diverse beam" or "greedy".
        system: one of `SYSTEMS` or `NO_CACHE`.
        batch: sentences, for the tables that fix them; None for the largest batch that fits.
        source: tokens of each source, for the memory table; None for those of the task.
        limit: bytes that the cell may use, for `CAPPED`; None for those of the profile.
    """

    table: str
    arch: str
    task: str
    dtype: str
    search: str
    system: str
    batch: int | None = None
    source: int | None = None
    limit: int | None = None

    @property
    def name(self) -> str:
        """The name of its file, without suffix."""
        sizes = (self.batch, self.source, self.limit)
        parts = [self.arch, self.task, self.dtype, *sizes, self.system]
        text = "-".join(str(part) for part in parts if part is not None).lower()
        return "".join(letter if letter.isalnum() or letter == "." else "-" for letter in text)

    @property
    def is_language_model(self) -> bool:
        """Whether the source is a prompt."""
        return ARCHITECTURES[self.arch].encoder is None

    @property
    def row(self) -> paper.Speed:
        """The row of the speed tables that has this model and this data set."""
        return next(
            row
            for row in paper.SPEEDS
            if (row.arch.name, row.task.name, row.search) == (self.arch, self.task, self.search)
        )


def cells(table: str, dtypes: tuple[str, ...]) -> Iterator[Cell]:
    """Yields the cells of a table, in its order.

    Args:
        table: one of `TABLES`, or `CAPPED`.
        dtypes: those of the speed tables to measure.
    """
    if table in SEARCHES:
        for row in paper.SPEEDS:
            if row.search != SEARCHES[table]:
                continue
            # fairseq 0.9 and 0.12 keep the same states of language models: one stands for both.
            systems = SYSTEMS if row.arch.encoder else tuple(s for s in SYSTEMS if s != PER_BEAM)
            for dtype in dtypes:
                for system in systems:
                    yield Cell(table, row.arch.name, row.task.name, dtype, row.search, system)
        return
    bart, dtype = "bart.large", dtypes[0]
    if table == "batch_size":
        for system in (NO_CACHE, *SYSTEMS):
            for batch in paper.BATCHES[0][1]:
                yield Cell(table, bart, paper.CNN_DM.name, dtype, "beam", system, batch)
    elif table == "memory":
        for batch, source in paper.INPUT_STATES:
            for system in SYSTEMS:
                yield Cell(table, bart, paper.CNN_DM.name, dtype, "beam", system, batch, source)
    elif table == CAPPED:
        for limit in LIMITS:
            for system in SYSTEMS:
                yield Cell(table, bart, paper.CNN_DM.name, dtype, "beam", system, limit=limit)
    else:
        raise ValueError(f"table: expected one of {(*TABLES, CAPPED)}, got {table!r}")


# Generation settings that the cost model does not need; `paper_figures` has the others.
GENERATION: dict[str, dict[str, Any]] = {
    paper.SQUAD.name: {"lenpen": 1.0, "min_len": 1, "no_repeat_ngram_size": 0},
    paper.XSUM.name: {"lenpen": 1.0, "min_len": 10, "no_repeat_ngram_size": 3},
    paper.CNN_DM.name: {"lenpen": 2.0, "min_len": 55, "no_repeat_ngram_size": 3},
}


@dataclass(frozen=True)
class Profile:
    """At which size, on what and how often cells are measured.

    Attributes:
        name: the name of the profile.
        device: the device of torch.
        dtypes: the dtypes of the speed tables; the other tables use the first.
        sentences: that each cell generates for; no batch is larger.
        rounds: times that all sentences are generated for; the median counts.
        memory: bytes that a cell may use: of the GPU, or by the process once its libraries are
            loaded; None for all there is.
        shrink: what the paper's sizes are divided by: "width", "heads", "layers", "vocabulary",
            "source" and "target" tokens, "batch", "limit".
    """

    name: str
    device: str
    dtypes: tuple[str, ...]
    sentences: int
    rounds: int
    memory: float | None
    shrink: dict[str, int] = field(default_factory=dict)

    def _shrunk(self, what: str, size: int) -> int:
        return max(1, size // self.shrink.get(what, 1))

    def _stack(self, stack: Stack) -> Stack:
        return replace(
            stack,
            layers=self._shrunk("layers", stack.layers),
            width=self._shrunk("width", stack.width),
            ffn=self._shrunk("width", stack.ffn),
            heads=self._shrunk("heads", stack.heads),
        )

    def architecture(self, cell: Cell) -> Architecture:
        """The shapes of the cell's model."""
        arch = ARCHITECTURES[cell.arch]
        return replace(
            arch,
            decoder=self._stack(arch.decoder),
            encoder=arch.encoder and self._stack(arch.encoder),
            vocabulary=self._shrunk("vocabulary", arch.vocabulary),
        )

    def task(self, cell: Cell) -> paper.Task:
        """The lengths and the beam of the cell's task."""
        task = cell.row.task
        return replace(
            task,
            beam=1 if cell.search == "greedy" else task.beam,
            limit=self._shrunk("source", cell.source or task.limit),
            mean=self._shrunk("source", cell.source or task.mean),
            first_end=self._shrunk("target", task.first_end),
            last_end=self._shrunk("target", task.last_end),
        )

    def generation(self, cell: Cell) -> dict[str, Any]:
        """The options of fairseq's generator."""
        task, options = self.task(cell), GENERATION[cell.task]
        return {
            **options,
            "beam": task.beam,
            "min_len": self._shrunk("target", options["min_len"]),
            # What is generated from a prompt has that for its beginning.
            "max_len_b": task.last_end + (task.limit if cell.is_language_model else 0),
            "diverse_beam_groups": task.beam if cell.search == "diverse beam" else -1,
        }

    def batch(self, cell: Cell) -> int | None:
        """Sentences of a batch, or None for the largest that fits."""
        return None if cell.batch is None else self._shrunk("batch", cell.batch)

    def limit(self, cell: Cell) -> float | None:
        """Bytes that the cell may use, or None for all there is."""
        return self.memory if cell.limit is None else self._shrunk("limit", cell.limit)


SMOKE = Profile(
    "smoke",
    device="cpu",
    dtypes=("float32",),
    sentences=20,
    rounds=1,
    memory=5 * 2**20,
    shrink={
        "width": 16,
        "heads": 8,
        "layers": 6,
        "vocabulary": 100,
        "source": 16,
        "target": 12,
        "batch": 16,
        "limit": 256,
    },
)
# Models of the paper's sizes, but short texts: for `CAPPED` on a CPU.
SHORT = Profile(
    CAPPED,
    device="cpu",
    dtypes=("float32",),
    sentences=256,
    rounds=1,
    memory=None,
    shrink={"source": 2, "target": 7},
)
FULL = Profile(
    "full", device="cuda", dtypes=("float16", "float32"), sentences=1024, rounds=3, memory=None
)
PROFILES = {profile.name: profile for profile in (SMOKE, SHORT, FULL)}


@dataclass(frozen=True)
class Source:
    """A checkpoint and the data to generate from.

    Attributes:
        checkpoint: path of a fairseq checkpoint of the cell's architecture.
        data: folder of fairseq-preprocess: its test split.
        pieces: how tokens become text, for scores: see `common.pieces.decoder`.
        references: file with the text of the targets, one a line, for scores.
    """

    checkpoint: str
    data: str
    pieces: str | None = None
    references: str | None = None


@dataclass(frozen=True)
class Job:
    """A cell and everything that its result depends on, but for machine and versions.

    Attributes:
        cell: what to measure.
        profile: at which size.
        source: model and data; None for random ones of the same sizes.
    """

    cell: Cell
    profile: Profile
    source: Source | None = None

    def generation(self) -> dict[str, Any]:
        """The options of fairseq's generator; random models end no sooner than trained ones do."""
        options = self.profile.generation(self.cell)
        if self.source is None:
            task = self.profile.task(self.cell)
            options["min_len"] = options["max_len_b"] - task.last_end + task.first_end
        return options

    def settings(self) -> dict[str, Any]:
        """Returns the job as JSON: what a stored result must agree with to be used."""
        profile, cell = self.profile, self.cell
        return {
            "cell": asdict(cell),
            "architecture": asdict(profile.architecture(cell)),
            "task": asdict(profile.task(cell)),
            "generation": self.generation(),
            "batch": profile.batch(cell),
            "shrink": profile.shrink,
            "device": profile.device,
            "sentences": profile.sentences,
            "rounds": profile.rounds,
            "memory": profile.limit(cell),
            "source": self.source and asdict(self.source),
        }
