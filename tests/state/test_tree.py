"""The beam tree and its caches against beams that each carry a copy of their own history."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import el_attention.state.states
from el_attention.ops import MAX_SEGMENTS
from el_attention.state import BeamTree, RowCache, States, View, capacity
from el_attention.state.tree import GROWTH

CPU = torch.device("cpu")


def random_order(sentences: int, beam: int, keep: list[int], random: torch.Generator) -> Tensor:
    """Parents of the beams of the sentences to keep, counted over all sentences."""
    parents = torch.randint(beam, (len(keep), beam), generator=random)
    return (torch.tensor(keep)[:, None] * beam + parents).flatten()


def histories(cache: RowCache, view: View, sentences: int, beam: int) -> list[list[float]]:
    """What each beam sees, in order of positions: the payload of its rows."""
    rows = cache.read(view)
    seen: list[list[float]] = []
    for group in range(sentences):
        values = torch.cat([part.keys[:, part.columns[group], 0, 0] for part in rows])
        assert view.visible is not None and view.positions is not None
        for one in range(beam):
            mask = view.visible[group, one]
            order = view.positions[group][mask].argsort()
            assert view.positions[group][mask][order].diff().gt(0).all()
            seen.append(values[mask][order].tolist())
    return seen


def prompt_of(lengths: Tensor) -> tuple[Tensor, Tensor]:
    """What `add_prompt` takes for prompts of these lengths, padded on the right."""
    positions = torch.arange(int(lengths.max())).expand(len(lengths), -1)
    return positions >= lengths[:, None], positions


@pytest.mark.parametrize(
    ("sentences", "beam", "steps"), [(1, 1, 70), (3, 4, 60), (5, 2, 40), (2, 40, 9)]
)
@pytest.mark.parametrize("prompt", [False, True])
def test_beams_see_their_own_history_through_reordering_and_finishing(
    sentences: int, beam: int, steps: int, prompt: bool
) -> None:
    random = torch.Generator().manual_seed(beam)
    tree = BeamTree(sentences, beam, CPU, keeps_positions=True)
    cache = RowCache()
    expected: list[list[float]] = [[] for _ in range(sentences * beam)]
    start = 0
    if prompt:
        lengths = torch.randint(1, 6, (sentences,), generator=random)
        start = 6
        states = torch.rand(int(lengths.max()), sentences, 1, 1, generator=random)
        tree.add_prompt(*prompt_of(lengths))
        cache = RowCache([(states, states)])
        expected = [
            states[: lengths[row // beam], row // beam, 0, 0].tolist()
            for row in range(sentences * beam)
        ]
    for step in range(start, start + steps):
        new = torch.rand(len(expected), 1, 1, generator=random)
        view, mappings = tree.append(step)
        cache.write((new, new), mappings, tree.segments)
        expected = [[*past, float(x)] for past, x in zip(expected, new.flatten(), strict=True)]
        assert histories(cache, view, tree.sentences, beam) == expected
        keep = list(range(tree.sentences))
        if len(keep) > 1 and step % 13 == 5:
            keep.pop(int(torch.randint(len(keep), (1,), generator=random)))
        order = random_order(tree.sentences, beam, keep, random)
        tree.reorder(order)
        expected = [expected[parent] for parent in order.tolist()]


def test_ancestors_are_shared_and_dead_rows_are_used_again() -> None:
    random = torch.Generator().manual_seed(0)
    sentences, beam, steps = 3, 4, 100
    tree = BeamTree(sentences, beam, CPU)
    for step in range(steps):
        view, _ = tree.append(step)
        alive = view.visible.any(1).sum(1)  # type: ignore[union-attr]
        assert (alive >= step + 1).all(), "every beam sees one row per token"
        tree.reorder(random_order(sentences, beam, list(range(sentences)), random))
    capacity = sum(segment.rows for segment in tree.segments)
    assert tree.live_rows < sentences * (steps + beam * 8)
    assert capacity < steps + 2 * GROWTH < steps * beam


def test_sentences_that_take_no_step_are_left_alone() -> None:
    tree = BeamTree(3, 2, CPU, keeps_positions=True)
    tree.add_prompt(*prompt_of(torch.tensor([4, 2, 3])))
    stored = torch.arange(12.0).view(4, 3, 1, 1)
    cache = RowCache([(stored, stored)])
    active = torch.tensor([1])
    view, mappings = tree.append(2, active=active)
    new = torch.tensor([100.0, 101.0]).view(2, 1, 1)
    cache.write((new, new), mappings, tree.segments)
    assert histories(cache, view, 1, 2) == [[1.0, 4.0, 100.0], [1.0, 4.0, 101.0]]
    view, mappings = tree.append(3, active=torch.tensor([1, 2]))
    new = torch.tensor([200.0, 201.0, 202.0, 203.0]).view(4, 1, 1)
    cache.write((new, new), mappings, tree.segments)
    assert histories(cache, view, 2, 2) == [
        [1.0, 4.0, 100.0, 200.0],
        [1.0, 4.0, 101.0, 201.0],
        [2.0, 5.0, 8.0, 202.0],
        [2.0, 5.0, 8.0, 203.0],
    ]


def test_a_row_of_padding_is_not_seen_by_the_beam_that_wrote_it() -> None:
    tree = BeamTree(1, 2, CPU)
    tree.append(0)
    view, _ = tree.append(1, is_padding=torch.tensor([False, True]))
    assert view.visible is not None and view.visible.sum(-1).tolist() == [[2, 1]]


@pytest.mark.parametrize("order", [[0, 2, 2, 3], [0, 1, 0, 1], [2, 3, 0, 1], [0, 1, 2]], ids=str)
def test_orders_that_mix_or_double_sentences_are_refused_and_can_be_separated(order) -> None:
    tree, cache = BeamTree(2, 2, CPU, keeps_positions=True), RowCache()
    expected: list[list[float]] = [[] for _ in range(4)]
    for step in range(3):
        new = torch.rand(4, 1, 1)
        _, mappings = tree.append(step)
        cache.write((new, new), mappings, tree.segments)
        expected = [[*past, float(x)] for past, x in zip(expected, new.flatten(), strict=True)]
        tree.reorder(torch.tensor([1, 0, 2, 2]))
        expected = [expected[i] for i in (1, 0, 2, 2)]
    parents = torch.tensor(order)
    assert not tree.accepts(parents)
    with pytest.raises(ValueError, match=r"expected beams to stay in their sentence"):
        tree.reorder(parents)
    separate, sentences, kept = tree.separate(parents)
    cache = cache.gather(tree.segments, sentences, kept)
    new = torch.rand(len(order), 1, 1)
    view, mappings = separate.append(3)
    cache.write((new, new), mappings, separate.segments)
    assert histories(cache, view, len(order), 1) == [
        [*expected[parent], float(x)] for parent, x in zip(order, new.flatten(), strict=True)
    ]


def test_segments_grow_so_that_even_long_generations_have_few() -> None:
    tree = BeamTree(1, 100, CPU)
    for step in range(120):
        view, _ = tree.append(step)  # no beam ever takes over from another: nothing is shared
    rows = [segment.rows for segment in tree.segments]
    assert sum(rows) >= 12_000 and len(rows) <= MAX_SEGMENTS and len(view.segments) == len(rows)
    for index, size in enumerate(rows):
        assert 2 * size >= sum(rows[:index]) and size >= GROWTH
    assert sum(rows) <= 1.5 * 12_000 + 1, "and never much beyond what is needed"


def test_a_tree_needs_a_beam_and_prompts_come_first() -> None:
    with pytest.raises(ValueError, match="beam: expected at least 1, got 0"):
        BeamTree(2, 0, CPU)
    tree = BeamTree(2, 1, CPU)
    tree.append(0)
    with pytest.raises(ValueError, match="expected an empty tree"):
        tree.add_prompt(*prompt_of(torch.tensor([1, 2])))


@pytest.mark.parametrize("prompt", (0, 700))
@pytest.mark.parametrize(("rows", "beam"), [(1, 1), (33, 3), (500, 5), (70, 40)])
def test_capacity_is_what_a_tree_reserves_beyond_its_prompt(rows, beam, prompt) -> None:
    tree = BeamTree(2, beam, torch.device("cpu"))
    if prompt:
        tree.add_prompt(*prompt_of(torch.tensor([3, prompt])))
    for step in range(-(-rows // beam)):
        tree.append(prompt + step)
    assert tree.visible.size(-1) == prompt + capacity(-(-rows // beam) * beam, beam)


@pytest.mark.parametrize("prompt", [False, True])
@pytest.mark.parametrize("most", [2, 3, 4])
def test_segments_are_merged_when_there_are_many_and_no_beam_sees_a_difference(
    most: int, prompt: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(el_attention.state.states, "MAX_SEGMENTS", most)
    random = torch.Generator().manual_seed(most)
    beam, steps = 3, 150
    states = States(5, beam, CPU, keeps_positions=True)
    expected: list[list[float]] = [[] for _ in range(5 * beam)]
    if prompt:
        rows = torch.rand(4, 5, 1, 1, generator=random)
        states.tree.add_prompt(*prompt_of(torch.full((5,), 4)))
        for key, cache in (("same", RowCache([(rows, rows)])), ("two", RowCache([(rows, -rows)]))):
            states.self_caches[key] = cache
        expected = [rows[:, row // beam, 0, 0].tolist() for row in range(5 * beam)]
    merges = 0
    for step in range(4 * prompt, 4 * prompt + steps):
        before = len(states.tree.segments)
        states.advance(step)
        merges += len(states.tree.segments) < before
        new = torch.rand(len(expected), 1, 1, generator=random)
        read = states.append("same", (new, new))
        assert len(read) <= most and all(part.values is part.keys for part in read)
        for part in states.append("two", (new, -new)):
            assert torch.equal(part.values, -part.keys)
        expected = [[*past, float(x)] for past, x in zip(expected, new.flatten(), strict=True)]
        for cache in states.self_caches.values():
            assert histories(cache, states.view, states.tree.sentences, beam) == expected
        keep = list(range(states.tree.sentences))
        if len(keep) > 1 and step % 29 == 5:
            keep.pop(int(torch.randint(len(keep), (1,), generator=random)))
        order = random_order(states.tree.sentences, beam, keep, random)
        assert states.reorder(order).tolist() == keep
        expected = [expected[parent] for parent in order.tolist()]
    assert merges > 0
    width = states.tree.segments[0].width
    assert width < 5, "and columns of finished sentences are gone"


def test_positions_are_kept_only_where_somebody_reads_them() -> None:
    orders = [torch.tensor([0, 0, 2, 3]), torch.tensor([3, 2])]
    views = []
    for keeps_positions in (False, True):
        tree = BeamTree(2, 2, CPU, keeps_positions)
        tree.add_prompt(*prompt_of(torch.tensor([2, 1])))
        for step, order in enumerate(orders):
            view, _ = tree.append(5 + step)
            tree.reorder(order)
        view, _ = tree.append(torch.tensor([9, 8]))
        views.append(view)
        assert (tree.positions is None) == (view.positions is None) == (not keeps_positions)
    assert views[0].visible is not None and views[1].visible is not None
    assert torch.equal(views[0].visible, views[1].visible)
    assert views[1].positions is not None
    assert views[1].positions[0, :2].tolist() == [0, 1]
    seen = [views[1].positions[0, row].item() for row in views[1].visible[0, 0].nonzero().flatten()]
    assert seen == [0, 5, 6, 9]
