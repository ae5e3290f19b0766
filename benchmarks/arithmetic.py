"""How much a search computes and holds, from the shape of a model alone: for models that are too large to run here.

Multiply-adds and bytes are those of the incremental editor (`circuitkit/engine/editors/`: `cone.py`, `live_state.py`),
with every affected node computed at all positions from the first difference of the prompts on. They are upper bounds of
what the editor computes and holds.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from circuitkit.circuit.graph import EdgeGraph


@dataclass(frozen=True)
class Shape:
    """A model with gated MLPs.

    Attributes:
        layers, heads, kv_heads, width, head_width: L, H, K, D, E.
        mlp_width: of the hidden layer.
        vocabulary: V.
        itemsize: bytes of a number.
    """

    layers: int
    heads: int
    kv_heads: int
    width: int
    head_width: int
    mlp_width: int
    vocabulary: int
    itemsize: int = 4

    @property
    def graph(self) -> EdgeGraph:
        return EdgeGraph(self.layers, self.heads, self.kv_heads)

    @property
    def weight_bytes(self) -> int:
        """Bytes of the layers, the embedding and the unembedding."""
        layer = 2 * self.width * self.head_width * (self.heads + self.kv_heads) + self.mlp_macs
        return self.itemsize * (self.layers * layer + 2 * self.vocabulary * self.width)

    @property
    def mlp_macs(self) -> int:
        """Multiply-adds of an MLP for one position."""
        return 3 * self.width * self.mlp_width

    def forward_macs(self, length: int) -> int:
        """Multiply-adds of a plain forward of one prompt, without the unembedding."""
        projections = 2 * self.width * self.head_width * (self.heads + self.kv_heads)
        attending = 2 * length * self.head_width * self.heads
        return length * self.layers * (projections + attending + self.mlp_macs)


LLAMA_8B = Shape(32, 32, 8, 4096, 128, 14336, 128_256)


@dataclass
class Cone:
    """What a removal changes: multiply-adds for one hypothesis and one prompt, and how many writers change."""

    macs: int
    writers: int


def cone(
    shape: Shape,
    graph: EdgeGraph,
    kept: Tensor,
    live: Tensor,
    reader: int,
    length: int,
    positions: int,
    answers: int = 1,
) -> Cone:
    """Count the cone of a reader in a circuit.

    Args:
        shape, graph: of the model.
        kept: the circuit, bool `[edges]`; live: its live writers, bool `[W]`.
        reader: the open reader.
        length: T; positions: how many of them are computed; answers: A, the positions at which the logits are read.
    """
    affected = torch.zeros(graph.n_writers, dtype=torch.bool)
    head, count, macs = shape.head_width * shape.width, 0, 0
    first = graph.blocks.index(graph.block(reader))
    for block in graph.blocks[first:]:
        changes = (graph.matrix(kept, block) & affected[: block.writers]).sum(1)  # how many reach each reader
        if reader in block.readers:
            changes[reader - block.readers.start] += 1
        hit = changes > 0
        if block.kind == "logits":
            macs += answers * int(changes) * shape.width
        elif block.kind == "mlp":
            if hit[0] and live[graph.mlp(block.layer)]:
                affected[graph.mlp(block.layer)] = True
                count, macs = count + 1, macs + positions * (shape.mlp_macs + int(changes) * shape.width)
        elif hit.any():
            q, k, v = hit.split([graph.heads, graph.kv_readers, graph.kv_readers])
            share = graph.heads // graph.kv_readers
            heads = (q | (k | v).repeat_interleave(share)) & live[graph.heads_of(block.layer)]
            groups = heads.unflatten(0, (-1, share)).any(1)
            readers, n = torch.cat([q & heads, k & groups, v & groups]), int(heads.sum())
            affected[graph.heads_of(block.layer)] = heads
            summed = int(changes[readers].sum()) * shape.width
            macs += positions * (int(readers.sum()) * head + summed + n * (head + 2 * length * shape.head_width))
            count += n
    return Cone(macs, count)


def memory_bytes(
    shape: Shape, prompts: int, length: int, positions: int, affected: int, answers: int = 1
) -> dict[str, int]:
    """Count the bytes of captures (2 W B T D numbers), of live state, and of the cone of one hypothesis.

    The hypothesis changes `affected` writers. A delta is held at all its positions, and once more at the
    answer positions alone.
    """
    graph, vector = shape.graph, prompts * length * shape.width
    inputs = shape.layers * (len(graph.attention(0).readers) + 1) * vector
    heads = shape.layers * (shape.heads + 2 * shape.kv_heads) * prompts * length * shape.head_width
    streams = (2 * shape.layers + 1) * vector
    step = 6 * shape.heads + 6 * shape.kv_heads
    vectors = (affected + 1) * (positions + answers) + step * positions
    changes = prompts * (vectors * shape.width + 3 * answers * shape.vocabulary)
    return {
        "captures": shape.itemsize * 2 * graph.n_writers * vector,
        "live": shape.itemsize * (inputs + heads + streams),
        "cone": shape.itemsize * changes,
    }
