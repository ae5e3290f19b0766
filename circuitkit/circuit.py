"""A circuit: a score for every edge of a graph, and which edges are kept."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from enum import IntEnum
from pathlib import Path
from typing import Self

import networkx as nx
import torch
from torch import Tensor

from circuitkit import circuit_files, eap_ig_files
from circuitkit.circuit_files import Contents
from circuitkit.connected import grow
from circuitkit.errors import CircuitKitError, UsageError
from circuitkit.graph import EdgeGraph, group_edges, same_edges

_PRUNED = ", pruned"


class Origin(IntEnum):
    """How an edge's score came about. The numbers are part of the file format."""

    GIVEN = 0
    """Handed in, by whatever made it."""
    TESTED = 1
    """The effect of removing this edge alone, when it was tested."""
    ESTIMATED = 2
    """To first order, from a gradient."""
    DEAD = 3
    """Untested, as no path led from the edge to the objective then; the score is 0."""
    JOINT = 4
    """The effect of removing this edge and others together, when they were tested."""


@dataclass(frozen=True, eq=False, repr=False)
class Circuit:
    """Scores and membership of a graph's edges. Not to be changed: every method makes a new one.

    Args:
        graph: the edges.
        scores: floating-point `[edges]`; positive where the edge helps, that is where removing it makes the
            objective worse.
        kept: bool `[edges]`, the circuit's members.
        origin: int8 `[edges]`, an `Origin` each.
        selection: the rule by which `kept` came about, in words. Signed and absolute rankings give different
            circuits, so every result carries it.
        tie: whether the cut fell between edges of equal score, so that other edges would have been as good.

    Raises:
        UsageError: a tensor has another shape or type, a score is NaN, an origin is unknown.
    """

    graph: EdgeGraph
    scores: Tensor
    kept: Tensor
    origin: Tensor
    selection: str = "given"
    tie: bool = False

    def __post_init__(self) -> None:
        for name, wanted in (("scores", None), ("kept", torch.bool), ("origin", torch.int8)):
            tensor = getattr(self, name)
            right = isinstance(tensor, Tensor) and tensor.shape == (len(self.graph),)
            if not right or not (tensor.is_floating_point() if wanted is None else tensor.dtype == wanted):
                found = f"{tensor.dtype} {list(tensor.shape)}" if isinstance(tensor, Tensor) else repr(tensor)[:60]
                kind = str(wanted or "floating-point").removeprefix("torch.")
                raise UsageError(f"{name} is {found}.", f"Give a {kind} tensor with {len(self.graph)} edges.")
            # A copy, since a search goes on using its buffers; on the CPU, where the graph's paths are followed
            object.__setattr__(self, name, tensor.detach().to("cpu", copy=True))
        if (missing := self.scores.isnan()).any():
            first = self.graph.names[int(missing.nonzero()[0])]
            raise UsageError(
                f"The score of {first!r} is NaN ({int(missing.sum())} of {len(missing)} are).",
                "Check the objective on every prompt: each must have a finite value.",
            )
        if not ((self.origin >= min(Origin)) & (self.origin <= max(Origin))).all():
            raise UsageError(f"There is no origin {self.origin.max()}.", "Use the members of Origin.")

    @classmethod
    def from_scores(cls, graph: EdgeGraph, scores: Tensor, origin: Origin | Tensor = Origin.GIVEN) -> Self:
        """A circuit that keeps every edge; sizes come from ranking.

        Args:
            scores: `[edges]`.
            origin: of every score, or int8 `[edges]`.
        """
        kept = torch.ones(len(graph), dtype=torch.bool)
        return cls(graph, scores, kept, _origins(graph, origin), "all edges")

    @classmethod
    def from_names(cls, graph: EdgeGraph, names: Iterable[str]) -> Self:
        """A circuit of these edges, such as `["a3.h5->m4"]`, with score 1, and 0 for all others.

        Raises:
            UsageError: a name names no edge.
        """
        kept = torch.zeros(len(graph), dtype=torch.bool)
        for name in names:
            kept[graph.parse(name)] = True
        return cls(graph, kept.float(), kept, _origins(graph, Origin.GIVEN), "edges given by name")

    # What is in it

    def __len__(self) -> int:
        return int(self.kept.sum())

    def __bool__(self) -> bool:
        return True  # `circuit or default` must not pass over an empty circuit

    @property
    def fraction(self) -> float:
        """Edges kept, of all."""
        return len(self) / len(self.graph)

    def names(self) -> list[str]:
        """Names of the edges kept."""
        return [self.graph.names[edge] for edge in self.kept.nonzero()[:, 0].tolist()]

    def to_dict(self) -> dict[str, float]:
        """The score of every edge, kept or not, by name."""
        return dict(zip(self.graph.names, self.scores.tolist(), strict=True))

    def to_networkx(self) -> "nx.DiGraph[str]":
        """The edges kept, as a graph in which every path of the circuit is a path.

        Nodes are writers and readers by name; an MLP is both. An edge of the circuit leads from a writer to a
        reader and has `score` and `origin` (the name of an `Origin`); every reader of a head is joined to the
        heads it feeds by an edge without a score. Nodes have `layer`, and `kind`: `input`, `head`, `q`, `k`, `v`,
        `mlp` or `logits`.
        """
        graph = self.graph
        result: nx.DiGraph[str] = nx.DiGraph()
        for edge in self.kept.nonzero()[:, 0].tolist():
            writer, reader = int(graph.writer_of[edge]), int(graph.reader_of[edge])
            result.add_edge(
                self._add_writer(result, writer),
                self._add_reader(result, reader),
                score=float(self.scores[edge]),
                origin=Origin(int(self.origin[edge])).name.lower(),
            )
        return result

    def _add_writer(self, to: "nx.DiGraph[str]", writer: int) -> str:
        name = self.graph.writer_names[writer]
        layer, place = divmod(writer - 1, self.graph.writers_per_layer)
        kind = "input" if writer == 0 else "head" if place < self.graph.heads else "mlp"
        to.add_node(name, kind=kind, layer=max(layer, 0))
        return name

    def _add_reader(self, to: "nx.DiGraph[str]", reader: int) -> str:
        name = self.graph.reader_names[reader]
        kind, layer, _ = self.graph.reader(reader)
        to.add_node(name, kind=kind, layer=layer)
        if kind in ("q", "k", "v"):
            to.add_edges_from((name, self._add_writer(to, owner)) for owner in self.graph.owners(reader))
        return name

    def __repr__(self) -> str:
        return f"Circuit({len(self):,} of {len(self.graph):,} edges: {self.selection})"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Circuit):
            return NotImplemented
        return (
            (self.graph, self.selection, self.tie) == (other.graph, other.selection, other.tie)
            and self.scores.dtype == other.scores.dtype
            and torch.equal(self.scores, other.scores)
            and torch.equal(self.kept, other.kept)
            and torch.equal(self.origin, other.origin)
        )

    __hash__ = None  # type: ignore[assignment]

    # Other selections of the same scores

    def ranking(self, absolute: bool = True) -> Tensor:
        """Edge numbers `[edges]`, the best first.

        Edges that are kept come before those that are not (a search's own circuit before what it removed), then
        by score, in size or with its sign; of equal scores the first edge of the graph comes first.
        """
        order = self._key(absolute).sort(descending=True, stable=True).indices
        return order[(~self.kept[order]).byte().sort(stable=True).indices]

    def top(self, n: int, absolute: bool = True) -> Self:
        """The first `n` edges of the ranking.

        MIB's CPR takes the signed ranking, its CMD and EAP-IG by default the absolute one.

        Raises:
            UsageError: there are not so many edges.
        """
        self._check_size(n)
        order, level = self._levels(absolute)
        kept = torch.zeros_like(self.kept)
        kept[order[:n]] = True
        tie = 0 < n < len(order) and bool(level[order[n - 1]] == level[order[n]])
        return self._select(kept, f"top {n} by {_measure(absolute)}{self._precedence()}", tie)

    def greedy(self, n: int, absolute: bool = True) -> Self:
        """`n` edges grown from the logits, as EAP-IG's `apply_greedy` takes them.

        Always the best edge (first in the ranking) of those into a node that the circuit has already: the logits
        at first, then every head or MLP that an edge of the circuit leaves. All edges so have a path to the
        logits; `prune` drops those without one from `input`.

        Raises:
            UsageError: there are not so many edges.
        """
        self._check_size(n)
        kept, tie = grow(self.graph, self._levels(absolute)[1].tolist(), n)
        return self._select(kept, f"greedy {n} by {_measure(absolute)}{self._precedence()}", tie)

    def threshold(self, x: float, absolute: bool = True) -> Self:
        """The edges whose score, in size or with its sign, is at least `x`, whether or not they were kept.

        Raises:
            UsageError: `x` is NaN.
        """
        if x != x:
            raise UsageError("The threshold is NaN.", "Give a number.")
        return self._select(self._key(absolute) >= x, f"{_measure(absolute)} >= {x:g}", tie=False)

    def prune(self) -> Self:
        """Without the edges that no path of kept edges joins both to `input` and to `logits`.

        A head counts as reached when its query, its key or its value is, as in EAP-IG.
        """
        reached = self.graph.reached_writers(self.kept)
        live = self.graph.live_readers(self.graph.live_writers(self.kept))
        # Once is enough: an edge that stays lies on one whole path, all of whose edges stay
        kept = self.kept & reached[self.graph.writer_of] & live[self.graph.reader_of]
        return self._select(kept, f"{self.selection.removesuffix(_PRUNED)}{_PRUNED}", self.tie)

    def _key(self, absolute: bool) -> Tensor:
        return self.scores.abs() if absolute else self.scores

    def _levels(self, absolute: bool) -> tuple[Tensor, Tensor]:
        """The ranking, and for every edge its place with edges that only their number orders counted as one."""
        order = self.ranking(absolute)
        key, kept = self._key(absolute)[order], self.kept[order]
        level = torch.zeros_like(order)
        level[order[1:]] = ((key[1:] != key[:-1]) | (kept[1:] != kept[:-1])).cumsum(0)
        return order, level

    def _precedence(self) -> str:
        return "" if len(self) in (0, len(self.graph)) else ", kept edges first"

    def _check_size(self, n: int) -> None:
        if not 0 <= n <= len(self.graph):
            raise UsageError(f"There is no circuit of {n} edges.", f"Choose from 0 to {len(self.graph)}.")

    def _select(self, kept: Tensor, selection: str, tie: bool) -> Self:
        return replace(self, kept=kept, selection=selection, tie=tie)

    # Two circuits

    def __and__(self, other: "Circuit") -> Self:
        """Edges kept in both. Scores, here and below, are the left one's: those of two searches do not compare."""
        return self._combine(other, self.kept & self._same(other).kept, "and")

    def __or__(self, other: "Circuit") -> Self:
        """Edges kept in either."""
        return self._combine(other, self.kept | self._same(other).kept, "or")

    def __sub__(self, other: "Circuit") -> Self:
        """Edges kept in this one and not in the other."""
        return self._combine(other, self.kept & ~self._same(other).kept, "without")

    def jaccard(self, other: "Circuit") -> float:
        """Edges kept in both, of those kept in either; 1 for two empty circuits.

        Raises:
            UsageError: the circuits are of different graphs.
        """
        either = int((self.kept | self._same(other).kept).sum())
        return int((self.kept & other.kept).sum()) / either if either else 1.0

    def _combine(self, other: "Circuit", kept: Tensor, word: str) -> Self:
        return self._select(kept, f"({self.selection}) {word} ({other.selection})", self.tie or other.tie)

    def _same(self, other: "Circuit") -> "Circuit":
        if not same_edges(self.graph, other.graph):
            raise UsageError(
                f"The circuits are of different graphs: {self.graph} and {other.graph}.",
                "Compare circuits of one model, both with kv='group' or (Circuit.expand_kv) both with kv='head'.",
            )
        return other

    # Keys and values of grouped-query attention

    def expand_kv(self) -> Self:
        """The same circuit with an edge into keys and values for every query head, as EAP-IG and MIB have it.

        An edge into a group's key or value becomes one for each query head of the group. A group's first-order
        score is the sum over its heads, since their gradients add; so each head's edge has an equal part of it,
        and sums agree. Whether the edge is kept, and how the group's score came about, is copied.
        """
        graph = replace(self.graph, kv="head")
        if same_edges(graph, self.graph):
            return replace(self, graph=graph)
        to = group_edges(graph, self.graph)
        parts = torch.bincount(to, minlength=len(self.graph)).to(self.scores.dtype)
        return replace(self, graph=graph, scores=(self.scores / parts)[to], kept=self.kept[to], origin=self.origin[to])

    def collapse_kv(self) -> Self:
        """The same circuit with keys and values read once a group: the way back from `expand_kv`.

        Scores of a group's heads are added. The group's edge is kept when that of one head is, for it carries what
        that head needs; its origin is that of the heads' scores, or `GIVEN` where they differ.
        """
        graph = replace(self.graph, kv="group")
        if same_edges(graph, self.graph):
            return replace(self, graph=graph)
        to = group_edges(self.graph, graph)
        low, high = (
            torch.zeros(len(graph), dtype=torch.int8).scatter_reduce(0, to, self.origin, how, include_self=False)
            for how in ("amin", "amax")
        )
        return replace(
            self,
            graph=graph,
            scores=self.scores.new_zeros(len(graph)).index_add(0, to, self.scores),
            kept=torch.bincount(to[self.kept], minlength=len(graph)) > 0,
            origin=low.where(low == high, int(Origin.GIVEN)),
        )

    # Files

    def save(self, folder: str | Path, name: str = "circuit") -> None:
        """Write `circuit.safetensors` and `circuit.json` (or another name's) into a folder, made if it is missing.

        Raises:
            UsageError: the name would lead out of the folder.
            CircuitKitError: the files cannot be written.
        """
        contents = Contents(self.graph, self.scores, self.kept, self.origin, self.selection, self.tie)
        circuit_files.save(Path(folder), name, contents)

    @classmethod
    def load(cls, folder: str | Path, name: str = "circuit") -> Self:
        """Read what `save` wrote.

        Raises:
            CircuitKitError: a file is missing, damaged, of an unknown version, or not a circuit's.
        """
        contents = circuit_files.load(Path(folder), name)
        try:
            return cls(*contents)
        except UsageError as error:
            raise _in_file(Path(folder) / f"{name}.safetensors", error) from error

    @classmethod
    def from_eap_ig(cls, path: str | Path, graph: EdgeGraph | None = None) -> Self:
        """Read what EAP-IG's `Graph.to_json` (`.json`) or `Graph.to_pt` (`.pt`) wrote; the scores' sign turns.

        Args:
            path: the file.
            graph: the graph to read it for. By default the file's own, which reads keys and values once a query
                head; for a graph with `kv="group"` the heads' edges are joined as in `collapse_kv`.

        Raises:
            UsageError: the file is of another graph, or its name ends otherwise.
            CircuitKitError: the file is missing, damaged, or selects single neurons.
        """
        found, scores, kept = eap_ig_files.read_eap_ig(Path(path))
        try:
            circuit = cls(found, scores, kept, _origins(found, Origin.GIVEN), f"as kept in {Path(path).name}")
        except UsageError as error:
            raise _in_file(path, error) from error
        if graph is None:
            return circuit
        by_head = replace(graph, kv="head")
        if not same_edges(found, by_head):
            raise UsageError(f"{path} is of {found}, not of {graph}.", "Give a file made with the same model.")
        circuit = replace(circuit, graph=by_head)
        return circuit if graph.kv == "head" else circuit.collapse_kv()

    def to_eap_ig(self, path: str | Path, *, d_model: int) -> None:
        """Write a file for EAP-IG's `Graph.from_json` or `Graph.from_pt`; the scores' sign turns.

        Keys and values are expanded to query heads (`expand_kv`), and scores are float32, as EAP-IG holds them.

        Args:
            path: where to, ending in `.json` or `.pt`.
            d_model: the model's residual width D. EAP-IG keeps it in its files and cannot read them without.

        Raises:
            UsageError: another ending; a graph without MLPs; infinite scores, in JSON.
            CircuitKitError: the file cannot be written.
        """
        by_head = self.expand_kv()
        eap_ig_files.write_eap_ig(Path(path), by_head.graph, by_head.scores, by_head.kept, d_model)


def _origins(graph: EdgeGraph, origin: Origin | Tensor) -> Tensor:
    return origin if isinstance(origin, Tensor) else torch.full((len(graph),), int(origin), dtype=torch.int8)


def _measure(absolute: bool) -> str:
    return "|score|" if absolute else "score"


def _in_file(path: str | Path, error: UsageError) -> CircuitKitError:
    return CircuitKitError(f"{path} holds no circuit: {error.problem}", "Save the circuit anew.")
