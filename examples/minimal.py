"""EL-attention, and a beam search over a tree of states, in plain torch: read it top to bottom.

Multi-head attention keeps a key and a value of every state for each layer, head and beam.
EL-attention keeps the state itself: the key projection moves to the query, the value projection to
the result. The function is the same; only the order of the matrix products changes:

    q . (Wk h_t + bk)        =  (q Wk) . h_t + q . bk    the same for all t: softmax cancels it
    sum_t p_t (Wv h_t + bv)  =  Wv (sum_t p_t h_t) + bv  the weights p_t add up to 1

Here: one sentence, B beams, H heads, U rows of D numbers. The package adds batches and kernels.
"""

import torch
from torch import Tensor, einsum, nn


def el_attention(mha: nn.MultiheadAttention, x: Tensor, rows: Tensor, visible: Tensor) -> Tensor:
    """Attends from every beam to the rows that it sees, with the parameters of `mha`.

    Args:
        mha: torch's multi-head attention; only its parameters are used.
        x: [B, D], the hidden state of each beam.
        rows: [U, D], states; all heads and all beams read the same ones, as keys and as values.
        visible: bool [B, U], which beam sees which row.

    Returns:
        [B, D], what `mha` gives if each beam has the rows that it sees as keys and values.
    """
    heads, head_dim = mha.num_heads, mha.head_dim
    query_weight, key_weight, value_weight = mha.in_proj_weight.view(3, heads, head_dim, -1)
    query_bias, _, value_bias = mha.in_proj_bias.view(3, heads, head_dim)  # no key bias: see above

    query = (einsum("bd,hkd->bhk", x, query_weight) + query_bias) * head_dim**-0.5
    expanded = einsum("bhk,hkd->bhd", query, key_weight)  # the expanded query, D numbers per head
    scores = einsum("bhd,ud->bhu", expanded, rows)  # B x H queries share one matrix of keys
    weights = scores.masked_fill(~visible[:, None], float("-inf")).softmax(-1)
    context = einsum("bhu,ud->bhd", weights, rows)  # a mean of states, not of values
    values = einsum("bhd,hkd->bhk", context, value_weight) + value_bias
    return mha.out_proj(values.flatten(1))


class Tree:
    """The states of generated tokens, shared by the beams of a sentence.

    A token's state depends on the tokens before it alone, so beams with a common beginning share
    rows. A row is written once and never moved. Beam search changes `visible`, and nothing else.
    """

    def __init__(self, layers: int, beams: int, steps: int, like: Tensor) -> None:
        # What each layer keeps, [layers, U, D]. A step adds at most a row per beam.
        self.rows = like.new_zeros(layers, beams * steps, like.size(-1))
        self.visible = torch.zeros(beams, beams * steps, dtype=torch.bool)

    def append(self) -> Tensor:
        """Gives every beam a row for its newest token; returns which, int64 [B], in all layers."""
        free = ~self.visible.any(0)  # never used, or dead: the beams that saw it were dropped
        slots = free.nonzero()[: len(self.visible), 0]
        self.visible[torch.arange(len(slots)), slots] = True
        return slots

    def reorder(self, parents: Tensor) -> None:
        """Lets beam b go on from beam `parents[b]`: it sees the same rows. No state is copied."""
        self.visible = self.visible[parents]


class Layer(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.self_attn = nn.MultiheadAttention(width, heads)
        self.cross_attn = nn.MultiheadAttention(width, heads)
        self.fc1, self.fc2 = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(3))

    def forward(self, x: Tensor, rows: Tensor, slots: Tensor, tree: Tree, source: Tensor) -> Tensor:
        hidden = self.norms[0](x)
        rows[slots] = hidden  # the only write: D numbers per beam, not a key and a value
        x = x + el_attention(self.self_attn, hidden, rows, tree.visible)
        # The encoder output serves every layer, head and beam as it is: nothing is projected.
        everything = torch.ones(1, len(source), dtype=torch.bool)
        x = x + el_attention(self.cross_attn, self.norms[1](x), source, everything)
        return x + self.fc2(self.fc1(self.norms[2](x)).relu())


class Decoder(nn.Module):
    def __init__(self, vocab_size: int, width: int, heads: int, layers: int, steps: int) -> None:
        super().__init__()
        self.tokens = nn.Embedding(vocab_size, width)
        self.positions = nn.Embedding(steps, width)
        self.layers = nn.ModuleList(Layer(width, heads) for _ in range(layers))
        self.norm, self.output = nn.LayerNorm(width), nn.Linear(width, vocab_size)

    def step(self, tokens: Tensor, position: int, tree: Tree, source: Tensor) -> Tensor:
        """Returns logits [B, vocab_size] after the newest tokens, int64 [B]."""
        x = self.tokens(tokens) + self.positions.weight[position]
        slots = tree.append()  # once a step, for all layers
        for layer, rows in zip(self.layers, tree.rows, strict=True):
            x = layer(x, rows, slots, tree, source)
        return self.output(self.norm(x))


@torch.no_grad()
def beam_search(
    model: Decoder, source: Tensor, beams: int, steps: int, eos: int
) -> tuple[list[tuple[float, list[int]]], Tree]:
    """Finds hypotheses for one sentence.

    Args:
        model: the decoder.
        source: [S, D], the encoder output.
        beams: B; the search ends when there are as many hypotheses.
        steps: the most tokens of a hypothesis.
        eos: the token that a hypothesis begins after and ends with.

    Returns:
        Hypotheses (mean log-probability of a token, tokens), best first; and the tree, to look at.
    """
    tree = Tree(len(model.layers), beams, steps, like=source)
    tokens = torch.full((beams, 1), eos)
    total = torch.full((beams,), float("-inf"), dtype=source.dtype)
    total[0] = 0  # all beams are equal at first: only one of them may have children
    finished: list[tuple[float, list[int]]] = []
    for position in range(steps):
        logits = model.step(tokens[:, -1], position, tree, source)
        scores = (logits.log_softmax(-1) + total[:, None]).flatten()
        best, index = scores.topk(2 * beams)  # at most B of them end: B are left to go on
        parents, newest = index // logits.size(1), index % logits.size(1)
        longer = torch.cat([tokens[parents], newest[:, None]], 1)
        ends = newest.eq(eos) | (position + 1 == steps)
        for candidate in ends[:beams].nonzero().flatten().tolist():
            score = float(best[candidate]) / (position + 1)
            finished.append((score, longer[candidate, 1:].tolist()))
        if len(finished) >= beams or position + 1 == steps:
            break
        kept = (~ends).nonzero()[:beams, 0]
        tokens, total = longer[kept], best[kept]
        tree.reorder(parents[kept])  # all that happens to the states
    return sorted(finished, reverse=True)[:beams], tree


if __name__ == "__main__":
    torch.manual_seed(0)
    source, layers, beams, steps = torch.randn(32, 64), 3, 4, 16
    decoder = Decoder(100, source.size(1), heads=8, layers=layers, steps=steps)
    hypotheses, states = beam_search(decoder, source, beams, steps, eos=0)
    for score, tokens in hypotheses:
        print(f"{score:.3f}", *tokens)
    copied = 2 * layers * beams * (steps + len(source)) * source.size(1)
    print(f"numbers kept: {states.rows.numel() + source.numel():,}; ", end="")
    print(f"as keys and values of each layer and beam: {copied:,}")
