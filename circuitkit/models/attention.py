"""The attention of one layer, over any subset of its heads and at any positions of the prompts.

All code that computes attention uses these steps:

1. `project`: queries, keys or values of some readers, from their normed inputs.
2. `norm_and_rotate`: the norm per head and the rotary positions, for queries and keys.
3. `attend_values`: z, the values weighted by the attention pattern.
4. `project_out`: z W_O of each head.
5. `normalize`: the heads' outputs, which are z W_O itself unless a norm follows the attention.

`read` is steps 1 and 2, `output` steps 3 and 4, and `run` all of them. Leading dimensions are free: `...` stands for
hypotheses, integration steps, or nothing.

*Coupled heads.* Where a norm with weight w follows the attention, head h writes w z_h W_O[h] / rms(sum over all heads
of the layer of z W_O): its part of the normed sum. Then step 5 needs all heads. If the norms of queries and of keys are
over the widths of all heads together (OLMo 2), so does step 2.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from circuitkit.circuit.graph import EdgeGraph
from circuitkit.models.backward_rule import BackwardRule
from circuitkit.models.families.base import Family
from circuitkit.models.norm import Norm
from circuitkit.models.weights import AttentionByHead

Kind = Literal["q", "k", "v"]
Rotary = tuple[Tensor, Tensor] | None
"""Cosines and sines `[B, P, *]` at some positions, or None without rotary positions."""


class AttentionRun(NamedTuple):
    """The result of `Attention.run` for h heads that use the keys and values of g readers.

    Attributes:
        q: queries `[h, ..., T, E]`; k: keys, v: values `[g, ..., T, E]`; queries and keys are rotated.
        projected: z W_O of the heads, `[h, ..., T, D]`.
        outputs: the heads' outputs, `[h, ..., T, D]`; the same tensor, unless a norm follows the attention.
    """

    q: Tensor
    k: Tensor
    v: Tensor
    projected: Tensor
    outputs: Tensor


class AttentionNorms(NamedTuple):
    """The norms of a layer's attention.

    Attributes:
        before: of the readers' inputs.
        heads: of queries and keys, or None.
        together: whether `heads` are norms of all heads together, with weights `[H E]` and `[K E]`, and not `[E]`.
        after: of the sum of the heads' outputs, or None.
    """

    before: Norm
    heads: tuple[Norm, Norm] | None
    together: bool
    after: Norm | None


def attention_norms(family: Family, layer: int, norm: Callable[[Norm], Norm]) -> AttentionNorms:
    """Collect the norms of a layer's attention, each as `norm` returns it (a rule's twin, or the norm itself)."""
    heads, after = family.head_norms(layer), family.attention_norm_after(layer)
    together = heads is not None and len(heads[0].weight) > family.head_width
    of_heads = heads and (norm(heads[0]), norm(heads[1]))
    return AttentionNorms(norm(family.attention_norm(layer)), of_heads, together, after and norm(after))


class Attention:
    """One layer's attention with its current weights; make a new one for every use (`CircuitModel.attention`).

    Args:
        graph: of the model.
        weights: the layer's attention weights, by head.
        norms: before and after the attention, and of queries and keys.
        scale: factor of the products of queries and keys.
        interleaved: as in `rotate`.
        cap: soft-capping of these products, or None.
        rule: the backward rule of the gradients.
    """

    def __init__(
        self,
        graph: EdgeGraph,
        weights: AttentionByHead,
        norms: "AttentionNorms",
        scale: float,
        interleaved: bool,
        cap: float | None,
        rule: BackwardRule,
    ) -> None:
        self.norm, self.norm_after, self.heads_normed_together = norms.before, norms.after, norms.together
        self.weights = weights
        self._graph, self._head_norms, self._scale, self._cap, self._rule = graph, norms.heads, scale, cap, rule
        self._interleaved = interleaved

    def run(self, x: Tensor, rotary: Rotary, mask: Tensor, heads: Tensor | None = None) -> AttentionRun:
        """Compute the outputs of some heads at all positions.

        Args:
            x: inputs of h query, g key and g value readers, in this order, `[h + 2 g, ..., T, D]`, where the g key
                readers are those that the heads use (`kv_readers_of`); or `[1, ..., T, D]`, one input for all.
            rotary: at all positions.
            mask: additive attention mask `[B, T, T]`.
            heads: numbers of the h heads, ascending; None: all.
        """
        graph, normed = self._graph, self.norm(x)
        readers = None if heads is None else kv_readers_of(graph, heads)
        count = graph.heads if heads is None else len(heads)
        kv_count = graph.kv_readers if readers is None else len(readers)
        xq, xk, xv = (normed,) * 3 if len(normed) == 1 else normed.split([count, kv_count, kv_count])
        q, k = self.read("q", xq, rotary, heads), self.read("k", xk, rotary, readers)
        v = self.read("v", xv, rotary, readers)
        del normed, xq, xk, xv  # as large as all inputs: not to be held while the heads attend
        if heads is None or readers is None:
            projected = self.output(q, k, v, mask)
        else:
            own = torch.searchsorted(readers, heads // (graph.heads // graph.kv_readers))  # each head's row of `k`
            projected = self.output(q, k[own], v[own], mask, heads)
        return AttentionRun(q, k, v, projected, self.normalize(projected))

    def read(self, kind: Kind, normed: Tensor, rotary: Rotary, readers: Tensor | None = None) -> Tensor:
        """Compute queries, keys or values of some readers, ready for `output`.

        Args:
            kind: queries, keys or values.
            normed: the readers' normed inputs, `[n, ..., P, D]`, or `[1, ..., P, D]`, one for all.
            rotary: at the positions of `normed`.
            readers: their numbers within the kind; None: all.

        Returns:
            `[n, ..., P, E]`.
        """
        return self.norm_and_rotate(kind, self.project(kind, normed, readers), rotary)

    def output(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor, heads: Tensor | None = None) -> Tensor:
        """Compute z W_O of some heads, `[h, ..., P, D]`; arguments as in `attend_values` and `project_out`."""
        return self.project_out(self.attend_values(q, k, v, mask), heads)

    def project(self, kind: Kind, normed: Tensor, readers: Tensor | None = None) -> Tensor:
        """Project normed inputs to queries, keys or values; arguments and shapes as in `read`."""
        weight, bias = self.projection(kind)
        if readers is not None:
            count = self._graph.heads if kind == "q" else self._graph.kv_readers
            rows = readers // (count // len(weight))  # with kv="head", the readers of a group share its weights
            if rows.tolist() != list(range(len(weight))):
                weight, bias = weight[rows], None if bias is None else bias[rows]
        return apply_by_head(normed, weight, bias)

    def projection(self, kind: Kind) -> tuple[Tensor, Tensor | None]:
        """Return weight `[H or K, E, D]` and bias `[H or K, E]` of a kind."""
        if kind == "q":
            return self.weights.q, self.weights.q_bias
        return (self.weights.k, self.weights.k_bias) if kind == "k" else (self.weights.v, self.weights.v_bias)

    def norm_and_rotate(self, kind: Kind, projected: Tensor, rotary: Rotary) -> Tensor:
        """Apply the norm per head, if the family has one, and rotary positions to projected queries or keys.

        Args:
            kind: values pass unchanged.
            projected: `[n, ..., B, P, E]`; of all heads if their norm is over all of them.
            rotary: at the same positions.
        """
        x = self._rule.projected(kind, projected)
        if kind == "v":
            return x
        if self._head_norms is not None:
            norm = self._head_norms[kind == "k"]
            x = normalize_together(norm, x) if self.heads_normed_together else norm(x)
        return x if rotary is None else rotate(x, *rotary, self._interleaved)

    def attend_values(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
        """Compute z, `[h, ..., P, E]`: values weighted by the attention pattern.

        Args:
            q: `[h, ..., B, P, E]`, at some positions.
            k, v: `[g, ..., B, T, E]`, at all positions; each is shared by h / g consecutive heads.
            mask: additive attention mask `[B, P, T]`.
        """
        share = q.shape[0] // k.shape[0]
        q = q.unflatten(0, (-1, share))  # [g, h / g, ..., P, E]
        scores = (q * self._scale) @ k.unsqueeze(1).mT
        if self._cap is not None:
            scores = self._cap * (scores / self._cap).tanh()
        z: Tensor = (self._rule.softmax(scores + mask) @ v.unsqueeze(1)).flatten(0, 1)
        return z

    def project_out(self, z: Tensor, heads: Tensor | None = None, out: Tensor | None = None) -> Tensor:
        """Compute z W_O of some heads, `[h, ..., P, E]` to `[h, ..., P, D]`.

        Args:
            z: of h heads.
            heads: their numbers; None: all.
            out: memory for the result, `[h, n, D]`, where n is the number of vectors per head.
        """
        o = self.weights.o
        some = o if heads is None or len(heads) == len(o) else o[heads]
        outputs: Tensor = torch.bmm(z.flatten(1, -2), some, out=out).unflatten(1, z.shape[1:-1])
        return outputs

    def normalize(self, projected: Tensor, total: Tensor | None = None) -> Tensor:
        """Compute the outputs of heads, if a norm follows the attention; otherwise return z W_O as it is.

        Args:
            projected: z W_O of all heads; or of some, if the total is given.
            total: the sum of z W_O over all heads.
        """
        if self.norm_after is None:
            return projected
        assert total is not None or len(projected) == self._graph.heads, "coupled heads are computed together"
        return self.norm_after.split(projected, total)


def normalize_together(norm: Norm, x: Tensor) -> Tensor:
    """Apply the norm of all heads' queries or keys together, `[n, ..., E]`.

    Args:
        norm: with weight `[g E]`.
        x: of g heads; or of n, of which n / g each share the weight of one, and count as much.
    """
    share = len(x) * x.shape[-1] // len(norm.weight)
    if share > 1:
        norm = replace(norm, weight=norm.weight.unflatten(0, (-1, x.shape[-1])).repeat_interleave(share, 0).flatten())
    assert len(norm.weight) == len(x) * x.shape[-1], "the norm needs all heads"
    normed: Tensor = norm(x.movedim(0, -2).flatten(-2)).unflatten(-1, (len(x), -1)).movedim(-2, 0)
    return normed


def kv_readers_of(graph: EdgeGraph, heads: Tensor) -> Tensor:
    """Return the numbers of the key (and value) readers that some heads use, ascending."""
    readers: Tensor = (heads // (graph.heads // graph.kv_readers)).unique()
    return readers


def apply_by_head(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Compute `x[h] @ weight[h].T + bias[h]`.

    Args:
        x: `[h, ..., D]`, or `[1, ..., D]`, one for all.
        weight: `[g, E, D]`; each is shared by h / g consecutive heads of `x`.
        bias: `[g, E]`, or None.

    Returns:
        `[h, ..., E]`.
    """
    if x.shape[0] == 1:
        flat = None if bias is None else bias.reshape(-1)
        out = nn.functional.linear(x[0], weight.reshape(-1, weight.shape[-1]), flat)
        by_head: Tensor = out.unflatten(-1, (weight.shape[0], -1)).movedim(-2, 0)
        return by_head
    share = x.shape[0] // weight.shape[0]
    rows = x.unflatten(0, (-1, share)).flatten(1, -2)  # [K, H / K * ... * T, D]
    out = torch.bmm(rows, weight.mT) if bias is None else torch.baddbmm(bias[:, None], rows, weight.mT)
    return out.reshape(*x.shape[:-1], -1)


def rotate(x: Tensor, cos: Tensor, sin: Tensor, interleaved: bool = False) -> Tensor:
    """Apply rotary positions to the first `cos.shape[-1]` dimensions of `x` (Su et al. 2021, arXiv 2104.09864).

    Args:
        x: `[..., B, P, E]`.
        cos, sin: of both dimensions of each pair, `[B, P, *]`.
        interleaved: whether neighbouring dimensions are pairs; otherwise, each of the first half is paired with one of
            the second.
    """
    width = cos.shape[-1]
    turned, rest = x[..., :width], x[..., width:]
    if interleaved:
        partners = torch.stack((-turned[..., 1::2], turned[..., ::2]), dim=-1).flatten(-2)
    else:
        first, second = turned.chunk(2, dim=-1)
        partners = torch.cat((-second, first), dim=-1)
    turned = turned * cos + partners * sin
    return torch.cat((turned, rest), dim=-1) if rest.shape[-1] else turned
