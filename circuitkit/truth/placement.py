"""Which head or MLP computes which step, and so which edges of the model the program uses."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from random import Random

from circuitkit.circuit.graph import EdgeGraph
from circuitkit.errors import UsageError
from circuitkit.truth.steps import TOKEN, Attend, Coordinate, Output, Reads, Step, reads_of, writes_of


@dataclass(frozen=True)
class Node:
    """A head, or an MLP (`head` is None)."""

    layer: int
    head: int | None

    @property
    def writer(self) -> str:
        """Return its name as a writer."""
        return f"m{self.layer}" if self.head is None else f"a{self.layer}.h{self.head}"

    def reader(self, kind: str) -> str:
        """Return the name of one of its readers: `q`, `k`, `v` or `mlp`."""
        return self.writer if kind == "mlp" else f"{self.writer}<{kind}>"


@dataclass(frozen=True)
class Placement:
    """The node of every step.

    Attributes:
        layers, heads: of the model.
        nodes: by the name of the step.
        free: the nodes without a step.
    """

    layers: int
    heads: int
    nodes: dict[str, Node]
    free: tuple[Node, ...]

    @property
    def graph(self) -> EdgeGraph:
        """Return the edges of the model."""
        return EdgeGraph(self.layers, self.heads, self.heads)


@dataclass(frozen=True)
class Use:
    """An edge that a program uses.

    Attributes:
        edge: its name in the model.
        writer, reader: the step that writes (or `input`), and the one that reads (or `logits`).
        kind: of the reader: `q`, `k`, `v`, `mlp` or `logits`.
        varies: what the edge carries differs between prompts.
    """

    edge: str
    writer: str
    reader: str
    kind: str
    varies: bool


def place(steps: Sequence[Step], layers: int | None, heads: int | None, seed: int) -> Placement:
    """Choose layers and heads by the seed, such that every step comes after those that it reads.

    Args:
        steps: of the program, in an order in which they can be computed.
        layers, heads: of the model; by default as many layers as the program needs, and four heads, or more if it
            needs more.
        seed: of the choice.

    Raises:
        UsageError: the model is too small.
    """
    levels = _levels(steps)
    depth = 1 + max(levels.values())
    attention = [[one for one in steps if isinstance(one, Attend) and levels[one.name] == n] for n in range(depth)]
    width = max(map(len, attention))
    layers, heads = depth if layers is None else layers, max(4, width) if heads is None else heads
    for given, needed, what in ((layers, depth, "layers"), (heads, width, "heads per layer")):
        if type(given) is not int or given < needed:
            raise UsageError(f"This program does not fit into {given!r} {what}.", f"Give at least {needed}.")
    rng = Random(f"placement {seed}")
    chosen = sorted(rng.sample(range(layers), depth))
    nodes: dict[str, Node] = {}
    for level, layer in enumerate(chosen):
        for one, head in zip(attention[level], rng.sample(range(heads), len(attention[level])), strict=True):
            nodes[one.name] = Node(layer, head)
    for step in steps:
        if not isinstance(step, Attend):
            nodes[step.name] = Node(chosen[levels[step.name]], None)
    taken = set(nodes.values())
    every = [Node(layer, head) for layer in range(layers) for head in (*range(heads), None)]
    return Placement(layers, heads, nodes, tuple(node for node in every if node not in taken))


def uses(steps: Sequence[Step], outputs: Sequence[Output], placement: Placement) -> list[Use]:
    """List the edges that a program uses: from every step to those that read coordinates that it writes to."""
    found: list[Use] = []
    written: dict[str, frozenset[Coordinate]] = {}
    for step in steps:
        for kind, reads in reads_of(step).items():
            reader = placement.nodes[step.name].reader(kind)
            for writer, varies in _writers(reads, written):
                found.append(Use(f"{_name(writer, placement)}->{reader}", writer, step.name, kind, varies))
        written[step.name] = writes_of(step)
    coordinates = frozenset((one.block, symbol) for one in outputs for symbol, _ in one.table)
    for writer, varies in _writers(Reads(coordinates, coordinates), written):
        found.append(Use(f"{_name(writer, placement)}->logits", writer, "logits", "logits", varies))
    return found


def _name(writer: str, placement: Placement) -> str:
    return writer if writer == "input" else placement.nodes[writer].writer


def _writers(reads: Reads, written: dict[str, frozenset[Coordinate]]) -> Iterator[tuple[str, bool]]:
    """Yield the writers of coordinates, each with whether what is read of it varies."""
    if any(block == TOKEN for block, _ in reads.coordinates):
        yield "input", any(block == TOKEN for block, _ in reads.varying)
    for name, coordinates in written.items():
        if reads.coordinates & coordinates:
            yield name, bool(reads.varying & coordinates)


def _levels(steps: Sequence[Step]) -> dict[str, int]:
    """Return the first layer, of as few as possible, that can compute each step; one MLP step per layer."""
    levels: dict[str, int] = {}
    mlps: set[int] = set()
    for number, step in enumerate(steps):
        read = frozenset().union(*(one.coordinates for one in reads_of(step).values()))
        level = 0
        for before in steps[:number]:
            if read & writes_of(before):
                same = isinstance(before, Attend) and not isinstance(step, Attend)  # an MLP reads its layer's heads
                level = max(level, levels[before.name] + (not same))
        while not isinstance(step, Attend) and level in mlps:
            level += 1
        if not isinstance(step, Attend):
            mlps.add(level)
        levels[step.name] = level
    return levels
