"""The graph of a transformer: writers, readers and the edges between them, as index arithmetic.

Writers add a vector to the residual stream, readers take their input from it, and an edge leads from every writer to
every later reader. Only a model's dimensions are needed.

Writers are numbered in the order of the forward pass: `input` (and `positions`, if learned position embeddings are a
writer of their own), then per layer its heads and its MLP. Readers likewise:
per layer the heads' queries, the keys, the values, the MLP; `logits` last. The edges of one reader are contiguous, from
the first writer to the last. A `Block` is the readers of one layer that read the same writers; its part of edge values,
`values[..., block.edges]`, unflattens into a `[readers, writers]` matrix.
"""

import re
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from circuitkit.circuit.numbering import Numbering
from circuitkit.errors import UsageError, quote

_NUMBER = "(0|[1-9][0-9]{0,5})"  # not \d, which matches the digits of any script
_HEAD = re.compile(rf"a{_NUMBER}\.h{_NUMBER}")
_ATTENTION_READER = re.compile(rf"a{_NUMBER}\.(h|kv){_NUMBER}<([qkv])>")
_MLP = re.compile(rf"m{_NUMBER}")


class Block(NamedTuple):
    """Readers of one layer that read the same writers: its attention, its MLP, or the logits."""

    kind: Literal["attention", "mlp", "logits"]
    layer: int
    readers: range
    writers: int
    """The number of writers that these readers read, their causal prefix."""
    edges: slice


@dataclass(frozen=True, repr=False)  # the one of Numbering
class EdgeGraph(Numbering):
    """Writers, readers and edges of a model with these dimensions.

    Args:
        layers: number of layers, L.
        heads: query heads per layer, H.
        kv_heads: key-value heads per layer, K; equal to `heads` without grouped-query attention.
        parallel: the MLP reads the same stream as the attention of its layer (Pythia, GPT-J, Phi).
        mlps: False for a model without MLPs.
        kv: with grouped-query attention, `"group"` reads keys and values once per group; `"head"` reads them once per
            query head, as EAP-IG and MIB do.
        positions: of a model with learned position embeddings: `"constant"` leaves them in the stream, where no edge
            carries them, as EAP-IG does; `"writer"` makes them the writer `positions` beside `input`, as ACDC's
            authors do.
        coupled: a norm follows each layer's attention (Gemma 2 and 3, OLMo 2), so that a change in one head changes the
            outputs of all heads of its layer. Such heads are live or dead together.
    """

    def __len__(self) -> int:
        return sum(len(block.readers) * block.writers for block in self.blocks)

    # Blocks and edges

    @cached_property
    def blocks(self) -> tuple[Block, ...]:
        """Return the blocks in the order of the forward pass: attention and MLP of every layer, then the logits."""
        blocks: list[Block] = []
        reader = edge = 0

        def add(kind: Literal["attention", "mlp", "logits"], layer: int, readers: int, writers: int) -> None:
            nonlocal reader, edge
            edges = slice(edge, edge + readers * writers)
            blocks.append(Block(kind, layer, range(reader, reader + readers), writers, edges))
            reader, edge = reader + readers, edges.stop

        for layer in range(self.layers):
            before = self.head(layer, 0)
            add("attention", layer, self.heads + 2 * self.kv_readers, before)
            if self.mlps:
                add("mlp", layer, 1, before if self.parallel else before + self.heads)
        add("logits", self.layers, 1, self.n_writers)
        return tuple(blocks)

    @cached_property
    def _block_of_reader(self) -> list[Block]:
        return [block for block in self.blocks for _ in block.readers]

    def block(self, reader: int) -> Block:
        """Return the block of a reader."""
        return self._block_of_reader[reader]

    def attention(self, layer: int) -> Block:
        """Return the block of a layer's queries, keys and values."""
        return self.blocks[layer * (1 + self.mlps)]

    def mlp_block(self, layer: int) -> Block:
        """Return the block of a layer's MLP."""
        return self.blocks[layer * (1 + self.mlps) + 1]

    def prefix(self, reader: int) -> int:
        """Return the number of writers that a reader reads, its causal prefix."""
        return self._block_of_reader[reader].writers

    def edges(self, reader: int) -> slice:
        """Return the numbers of the edges into a reader, from its first writer to its last."""
        block = self._block_of_reader[reader]
        start = block.edges.start + (reader - block.readers.start) * block.writers
        return slice(start, start + block.writers)

    def matrix(self, values: Tensor, block: Block) -> Tensor:
        """View the part of `values` `[..., edges]` that belongs to a block as `[..., readers, writers]`."""
        matrix: Tensor = values[..., block.edges].unflatten(-1, (len(block.readers), block.writers))
        return matrix

    def index(self, writer: int, reader: int) -> int:
        """Return the number of the edge from a writer to a reader, by their numbers."""
        if not 0 <= writer < self.prefix(reader):
            raise IndexError(f"writer {writer} does not come before reader {reader}")
        start: int = self.edges(reader).start
        return start + writer

    @cached_property
    def writer_of(self) -> Tensor:
        """Return the writer number of every edge, `[edges]`."""
        return torch.cat(
            [torch.arange(block.writers, dtype=torch.int64).repeat(len(block.readers)) for block in self.blocks]
        )

    @cached_property
    def reader_of(self) -> Tensor:
        """Return the reader number of every edge, `[edges]`."""
        return torch.cat(
            [
                torch.arange(b.readers.start, b.readers.stop, dtype=torch.int64).repeat_interleave(b.writers)
                for b in self.blocks
            ]
        )

    # Names

    @cached_property
    def writer_names(self) -> list[str]:
        """List the name of every writer."""
        names = ["input", "positions"][: self.inputs]
        for layer in range(self.layers):
            names += [f"a{layer}.h{head}" for head in range(self.heads)]
            names += [f"m{layer}"] * self.mlps
        return names

    @cached_property
    def reader_names(self) -> list[str]:
        """List the name of every reader."""
        return [self._reader_name(index) for index in range(self.n_readers)]

    def _reader_name(self, index: int) -> str:
        kind, layer, head = self.reader(index)
        if kind == "logits":
            return "logits"
        if kind == "mlp":
            return f"m{layer}"
        group = "h" if kind == "q" or self.kv_readers == self.heads else "kv"
        return f"a{layer}.{group}{head}<{kind}>"

    @cached_property
    def names(self) -> list[str]:
        """List the name of every edge, `writer->reader`."""
        return [
            f"{writer}->{self.reader_names[reader]}"
            for block in self.blocks
            for reader in block.readers
            for writer in self.writer_names[: block.writers]
        ]

    def parse_writer(self, name: str) -> int:
        """Return the number of the writer called `name`.

        Raises:
            UsageError: no writer has that name.
        """
        if name in ("input", "positions")[: self.inputs]:
            return int(name == "positions")
        if (match := _HEAD.fullmatch(name)) and int(match[1]) < self.layers and int(match[2]) < self.heads:
            return self.head(int(match[1]), int(match[2]))
        if self.mlps and (match := _MLP.fullmatch(name)) and int(match[1]) < self.layers:
            return self.mlp(int(match[1]))
        raise UsageError(f"This model has no writer {name!r}.", f"Writers are {self._examples(self.writer_names)}.")

    def parse_reader(self, name: str) -> int:
        """Return the number of the reader called `name`.

        Raises:
            UsageError: no reader has that name.
        """
        name = str(name)
        if name == "logits":
            return self.logits
        if self.mlps and (match := _MLP.fullmatch(name)) and int(match[1]) < self.layers:
            return self.reader_index("mlp", int(match[1]))
        if match := _ATTENTION_READER.fullmatch(name):
            layer, letter, head, kind = int(match[1]), match[2], int(match[3]), match[4]
            per_head = kind == "q" or self.kv_readers == self.heads
            count = self.heads if kind == "q" else self.kv_readers
            if layer < self.layers and head < count and letter == ("h" if per_head else "kv"):
                return self.reader_index(kind, layer, head)  # type: ignore[arg-type]
        raise UsageError(f"This model has no reader {name!r}.", f"Readers are {self._examples(self.reader_names)}.")

    def parse(self, name: str) -> int:
        """Return the number of the edge called `name`, such as `a3.h5->m4`.

        Raises:
            UsageError: the name is malformed, or names no edge of this graph.
        """
        parts = name.split("->") if isinstance(name, str) else ()
        if len(parts) != 2:
            raise UsageError(f"{quote(name)} is not the name of an edge.", "Edges are written 'a3.h5->m4'.")
        writer, reader = self.parse_writer(parts[0]), self.parse_reader(parts[1])
        if writer >= self.prefix(reader):
            raise UsageError(f"There is no edge {name!r}.", "A writer must come before its reader in the model.")
        return self.index(writer, reader)

    @staticmethod
    def _examples(names: list[str]) -> str:
        return ", ".join(names if len(names) <= 6 else [*names[:3], "...", *names[-2:]])

    # Paths

    def live_writers(self, kept: Tensor) -> Tensor:
        """Find the writers that have a path of kept edges to the logits.

        Args:
            kept: bool `[edges]`.

        Returns:
            bool `[W]`. A reader is live if one of the writers that it changes is (see `live_readers`). Coupled heads
            are live if one of them is.
        """
        live = torch.zeros(self.n_writers, dtype=torch.bool)
        for block in reversed(self.blocks):
            self.couple(block, live)
            readers = self._readers_live(block, live)
            live[: block.writers] |= (self.matrix(kept, block) & readers[:, None]).any(0)
        return live

    def live_readers(self, live_writers: Tensor) -> Tensor:
        """Find the readers that change a live writer, bool `[R]`; the logits are always live.

        Args:
            live_writers: the result of the method of this name.
        """
        return torch.cat([self._readers_live(block, live_writers) for block in self.blocks])

    def _readers_live(self, block: Block, writers: Tensor) -> Tensor:
        if block.kind == "logits":
            return torch.ones(1, dtype=torch.bool)
        if block.kind == "mlp":
            return writers[self.mlp(block.layer)][None]
        heads = writers[self.heads_of(block.layer)]  # [H]
        groups = heads.unflatten(0, (self.kv_readers, -1)).any(1)
        return torch.cat([heads, groups, groups])

    def reached_writers(self, kept: Tensor) -> Tensor:
        """Find the writers that have a path of kept edges from `input` or `positions`, bool `[W]`; these are reached.

        A head is reached if its query, its key or its value is, or if it is coupled with such a head.
        """
        reached = torch.zeros(self.n_writers, dtype=torch.bool)
        reached[: self.inputs] = True
        for block in self.blocks:
            readers = (self.matrix(kept, block) & reached[: block.writers]).any(1)
            if block.kind == "mlp":
                reached[self.mlp(block.layer)] = readers[0]
            elif block.kind == "attention":
                q, k, v = readers.split([self.heads, self.kv_readers, self.kv_readers])
                share = self.heads // self.kv_readers
                reached[self.heads_of(block.layer)] = q | (k | v).repeat_interleave(share)
                self.couple(block, reached)
        return reached

    def couple(self, block: Block, writers: Tensor) -> None:
        """Extend a property of writers, bool `[W, ...]`, from one coupled head of a block to all; in place."""
        if self.coupled and block.kind == "attention":
            heads = writers[self.heads_of(block.layer)]
            heads |= heads.any(0)


def same_edges(one: EdgeGraph, other: EdgeGraph) -> bool:
    """Tell whether two graphs have the same edges: without grouped-query attention, `kv` makes no difference."""
    return (one.layers, one.heads, one.kv_readers, one.parallel, one.mlps, one.inputs) == (
        other.layers, other.heads, other.kv_readers, other.parallel, other.mlps, other.inputs
    )  # fmt: skip
