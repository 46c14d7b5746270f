"""`el-attention plan --corpus`: what a corpus would take."""

from __future__ import annotations

from collections.abc import Iterator

from el_attention.corpus import Source
from el_attention.corpus.forecast import CHARACTERS_PER_TOKEN, forecast, lengths_of
from el_attention.corpus.progress import duration
from el_attention.cost import Architecture, Device, Rates, Workload
from el_attention.robust.memory import in_units


def report(
    source: Source,
    workers: int,
    arch: Architecture,
    load: Workload,
    device: Device,
    rates: Rates,
    available: float,
) -> Iterator[str]:
    """Yields lines about a corpus.

    Args:
        source: the source of the rows.
        workers: with a device each.
        arch: the model.
        load: what is generated for a row.
        device: the device of a worker.
        rates: what software reaches of the device.
        available: bytes for states and temporaries of a worker.

    Raises:
        ImportError: if Parquet is to be read, and pyarrow is not there.
        OSError: if the file cannot be read.
        ValueError: if no row has a text.
    """
    found = forecast(lengths_of(source), arch, load, device, rates, available)
    if not found.rows:
        raise ValueError(f"corpus {source.path}: no row has a text in {source.text_column!r}")
    average = found.tokens / found.rows
    yield (
        f"{source.path}: {found.rows:,} rows of {average:,.0f} tokens on average, "
        f"at {CHARACTERS_PER_TOKEN} characters a token"
    )
    yield (
        f"{duration(found.seconds / workers)} with {workers} workers, "
        f"{found.rows / found.seconds:.3g} rows/s each"
    )
    yield f"memory of a worker: {in_units(arch.weights * load.item)} and {in_units(found.peak)}"
    yield (
        f"padding of sources: {_share(found.tokens, found.padded)}, and "
        f"{_share(found.tokens, found.in_order)} in the order of the file"
    )


def _share(tokens: int, padded: int) -> str:
    return f"{1 - tokens / padded:.1%}"
