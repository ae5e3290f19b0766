"""The sizes of a model's graph, and the numbers of its writers and readers, in the order of the forward pass."""

from dataclasses import dataclass, fields
from typing import Literal, NamedTuple

from circuitkit.errors import UsageError, quote

_MOST = 100_000
ReaderKind = Literal["q", "k", "v", "mlp", "logits"]


class Reader(NamedTuple):
    """A reader's kind, layer and head. For keys and values that are read once per group, `head` is the group."""

    kind: ReaderKind
    layer: int
    head: int


@dataclass(frozen=True)
class Numbering:
    """What `EdgeGraph` says of single writers and readers; its arguments are described there."""

    layers: int
    heads: int
    kv_heads: int
    parallel: bool = False
    mlps: bool = True
    kv: Literal["group", "head"] = "group"
    positions: Literal["constant", "writer"] = "constant"
    coupled: bool = False

    def __repr__(self) -> str:
        values = [(field.name, getattr(self, field.name)) for field in fields(self)]
        usual = {"positions": "constant", "coupled": False}
        said = [f"{name}={value!r}" for name, value in values if name not in usual or value != usual[name]]
        return f"{type(self).__name__}({', '.join(said)})"

    def __post_init__(self) -> None:
        sizes = (self.layers, self.heads, self.kv_heads)
        if not all(type(size) is int and 1 <= size <= _MOST for size in sizes) or self.heads % self.kv_heads:
            words = f"{quote(self.layers)} layers, {quote(self.heads)} heads and {quote(self.kv_heads)} key-value heads"
            raise UsageError(
                f"A graph of {words} is impossible.",
                f"Give numbers from 1 to {_MOST:,}, and a number of heads that is a multiple of the key-value heads.",
            )
        for name in ("parallel", "mlps", "coupled"):
            if not isinstance(getattr(self, name), bool):
                raise UsageError(f"{name}={quote(getattr(self, name))} is neither True nor False.", "Give one of them.")
        if self.kv not in ("group", "head"):
            raise UsageError(f"kv={self.kv!r} is neither 'group' nor 'head'.", "Choose one of the two.")
        if self.positions not in ("constant", "writer"):
            raise UsageError(f"positions={self.positions!r} is unknown.", "Choose 'constant' or 'writer'.")

    # Sizes

    @property
    def kv_readers(self) -> int:
        """Return the number of key readers per layer; there are as many value readers."""
        return self.kv_heads if self.kv == "group" else self.heads

    @property
    def inputs(self) -> int:
        """Return the number of writers before the first layer: `input`, and perhaps `positions`."""
        return 1 + (self.positions == "writer")

    @property
    def writers_per_layer(self) -> int:
        """Return the number of writers per layer: heads and the MLP."""
        return self.heads + self.mlps

    @property
    def readers_per_layer(self) -> int:
        """Return the number of readers per layer: queries, keys, values and the MLP."""
        return self.heads + 2 * self.kv_readers + self.mlps

    @property
    def n_writers(self) -> int:
        """W, the number of writers."""
        return self.inputs + self.layers * self.writers_per_layer

    @property
    def n_readers(self) -> int:
        """R, the number of readers."""
        return 1 + self.layers * self.readers_per_layer

    # Numbers of writers and readers

    def head(self, layer: int, head: int) -> int:
        """Return the writer number of a head."""
        return self.inputs + layer * self.writers_per_layer + head

    def heads_of(self, layer: int) -> slice:
        """Return the writer numbers of a layer's heads."""
        return slice(self.head(layer, 0), self.head(layer, self.heads))

    def mlp(self, layer: int) -> int:
        """Return the writer number of an MLP."""
        return self.head(layer, self.heads)

    def place_of(self, writer: int) -> tuple[int, int]:
        """Return layer and place of a writer: its head or, of the MLP, the number of heads; layer -1 before the first.

        The inverse of `head`.
        """
        layer, place = divmod(writer - self.inputs, self.writers_per_layer)
        return (layer, place) if writer >= self.inputs else (-1, writer)

    @property
    def logits(self) -> int:
        """Return the reader number of the logits."""
        return self.n_readers - 1

    def reader(self, index: int) -> Reader:
        """Return kind, layer and head of the reader with this number."""
        if index == self.logits:
            return Reader("logits", self.layers, 0)
        layer, rest = divmod(index, self.readers_per_layer)
        if rest < self.heads:
            return Reader("q", layer, rest)
        if rest < self.heads + 2 * self.kv_readers:
            value, group = divmod(rest - self.heads, self.kv_readers)
            return Reader("v" if value else "k", layer, group)
        return Reader("mlp", layer, 0)

    def reader_index(self, kind: ReaderKind, layer: int, head: int = 0) -> int:
        """Return the number of a reader; the inverse of `reader`."""
        if kind == "logits":
            return self.logits
        offset = {"q": 0, "k": self.heads, "v": self.heads + self.kv_readers, "mlp": self.heads + 2 * self.kv_readers}
        return layer * self.readers_per_layer + offset[kind] + head

    def writers_fed_by(self, reader: int) -> range:
        """Return the writers that a reader feeds: one head or MLP, all heads of a group, none for the logits.

        Where heads are coupled, the others of the layer change too: see `writers_changed_by`.
        """
        kind, layer, head = self.reader(reader)
        if kind == "logits":
            return range(0)
        if kind == "mlp":
            return range(self.mlp(layer), self.mlp(layer) + 1)
        share = self.heads // self.kv_readers if kind in "kv" else 1
        return range(self.head(layer, head * share), self.head(layer, (head + 1) * share))

    def writers_changed_by(self, reader: int) -> range:
        """Return the writers whose outputs change with a reader's input: all heads of the layer if they are coupled."""
        kind, layer, _ = self.reader(reader)
        if self.coupled and kind in ("q", "k", "v"):
            return range(self.head(layer, 0), self.head(layer, self.heads))
        return self.writers_fed_by(reader)
