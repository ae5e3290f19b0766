"""A circuit: a score for every edge of a graph, and the choice of edges to keep."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import networkx as nx
import torch
from torch import Tensor

from circuitkit.circuit import eap_ig_files, files
from circuitkit.circuit.drawing.draw import draw, notebook_html
from circuitkit.circuit.files import Contents
from circuitkit.circuit.graph import EdgeGraph, same_edges
from circuitkit.circuit.grow import grow
from circuitkit.circuit.key_value_groups import join_groups, split_groups
from circuitkit.circuit.networkx_view import to_networkx
from circuitkit.circuit.pandas_view import to_pandas
from circuitkit.circuit.score_source import ScoreSource
from circuitkit.circuit.values import check_graph, check_size, check_values, fill_score_sources, hash_values
from circuitkit.errors import CircuitKitError, UsageError, quote
from circuitkit.storage.files import to_path

if TYPE_CHECKING:  # imported where a table is made, since it takes a while
    import pandas

_ALL, _PRUNED = "all edges", ", pruned"


@dataclass(frozen=True, eq=False, repr=False)
class Circuit:
    """A score for every edge of a graph, and the choice of edges to keep. Immutable: methods return new circuits.

    Args:
        graph: the edges.
        scores: floating-point `[edges]`; positive if the edge helps, that is, if removing it makes the objective
            worse.
        kept: bool `[edges]`, True for the edges of the circuit.
        score_sources: int8 `[edges]`, a `ScoreSource` per edge.
        selection: the rule that chose `kept`, in words, such as "top 100 by |score|" or "top 100 by score".
        tie: True if the cut fell between edges of equal score, so that other edges would be as good.

    Raises:
        UsageError: a tensor has another shape or type, a score is NaN, or a score source is unknown.
    """

    graph: EdgeGraph
    scores: Tensor
    kept: Tensor
    score_sources: Tensor
    selection: str = "given"
    tie: bool = False

    def __post_init__(self) -> None:
        check_values(self.graph, self.scores, self.kept, self.score_sources)
        for name in ("scores", "kept", "score_sources"):
            # A copy, since a search continues to use its buffers; on the CPU, where paths are followed
            object.__setattr__(self, name, getattr(self, name).detach().to("cpu", copy=True))

    @classmethod
    def from_scores(
        cls, graph: EdgeGraph, scores: Tensor, score_sources: ScoreSource | Tensor = ScoreSource.GIVEN
    ) -> Self:
        """Make a ranking: a circuit that keeps every edge, since none was chosen yet; `top` then selects the best.

        Args:
            scores: `[edges]`.
            score_sources: one for all scores, or int8 `[edges]`.
        """
        kept = torch.ones(len(check_graph(graph)), dtype=torch.bool)
        return cls(graph, scores, kept, fill_score_sources(graph, score_sources), _ALL)

    @classmethod
    def from_names(cls, graph: EdgeGraph, names: Iterable[str]) -> Self:
        """Make a circuit of these edges, such as `["a3.h5->m4"]`, with score 1; other edges have score 0.

        Raises:
            UsageError: there is no edge of that name.
        """
        kept = torch.zeros(len(check_graph(graph)), dtype=torch.bool)
        if isinstance(names, str) or not isinstance(names, Iterable):
            raise UsageError(f"{quote(names)} is no list of edges.", "Give one such as ['a3.h5->m4'].")
        for name in names:
            kept[graph.parse(name)] = True
        return cls(graph, kept.float(), kept, fill_score_sources(graph, ScoreSource.GIVEN), "edges given by name")

    # Content

    def __len__(self) -> int:
        return int(self.kept.sum())

    def __bool__(self) -> bool:
        return True  # otherwise `circuit or default` would skip an empty circuit

    @property
    def fraction(self) -> float:
        """Return the fraction of the edges that are kept."""
        return len(self) / len(self.graph)

    @property
    def is_ranking(self) -> bool:
        """Tell whether the edges were only scored (`from_scores`); a search that keeps every edge chose them."""
        return self.selection.removesuffix(_PRUNED) == _ALL and len(self) == len(self.graph)

    def names(self) -> list[str]:
        """List the names of the kept edges."""
        return [self.graph.names[edge] for edge in self.kept.nonzero()[:, 0].tolist()]

    def __iter__(self) -> Iterator[str]:
        """Iterate over the names of the kept edges."""
        return iter(self.names())

    def __contains__(self, name: object) -> bool:
        """Tell whether the edge of this name is kept.

        Raises:
            UsageError: the graph has no edge of that name.
        """
        if not isinstance(name, str):
            raise UsageError(f"{quote(name)} is not the name of an edge.", "Edges are written 'a3.h5->m4'.")
        return bool(self.kept[self.graph.parse(name)])

    def to_dict(self) -> dict[str, float]:
        """Return the scores of the kept edges by name; `graph.names` and `scores` are those of all edges."""
        scores = self.scores.tolist()
        return {self.graph.names[edge]: scores[edge] for edge in self.kept.nonzero()[:, 0].tolist()}

    def to_networkx(self) -> "nx.DiGraph[str]":
        """Convert the kept edges to a networkx graph with the same paths.

        Nodes are writers and readers by name; an MLP is both. An edge of the circuit leads from a writer to a reader
        and has `score` and `score_source` (the name of a `ScoreSource`). In addition, each query, key or value reader
        has an edge without a score to every head that it changes (`EdgeGraph.writers_changed_by`). Nodes have `layer`,
        and `kind`: `input`, `positions`, `head`, `q`, `k`, `v`, `mlp` or `logits`.
        """
        return to_networkx(self.graph, self.kept, self.scores, self.score_sources)

    def to_pandas(self) -> "pandas.DataFrame":
        """Return a table with a row per edge of the graph, in the graph's order.

        Columns: `edge` (its name), `writer`, `reader`, `kind` of the reader (`q`, `k`, `v`, `mlp` or `logits`),
        `layer_from` (-1 for `input`, `positions`) and `layer_to` (the number of layers for the logits), `score`,
        `score_source` (the name of a `ScoreSource`), `kept`, and `rank` (from 1, of `ranking()`).
        """
        return to_pandas(self.graph, self.kept, self.scores, self.score_sources, self.ranking())

    def draw(self, path: str | Path) -> None:
        """Draw the kept edges: layers as rows from `input` to the logits, edges by weight and sign.

        Args:
            path: `.svg` or `.png`, a picture of at most 3,000 edges; `.html`, a page with the interactive viewer, which
                holds the scores of all edges; or `.dot`, all kept edges for Graphviz. Of a ranking, whose edges are not
                chosen, pictures show the first 200.

        Raises:
            UsageError: another ending.
            CircuitKitError: the file cannot be written.
        """
        draw(self, to_path(path))

    def _repr_html_(self) -> str:
        return notebook_html(self)

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
            and torch.equal(self.score_sources, other.score_sources)
        )

    __hash__ = None  # type: ignore[assignment]

    # Other selections of the same scores

    def ranking(self, absolute: bool = True) -> Tensor:
        """Rank the edges: return edge numbers `[edges]`, the best first.

        Kept edges come before all others, so that a search's own circuit comes before the edges it removed. Within
        both parts, edges are ordered by |score| or, if not `absolute`, by score; ties are in the graph's order.
        """
        order = self._key(absolute).sort(descending=True, stable=True).indices
        return order[(~self.kept[order]).byte().sort(stable=True).indices]

    def top(self, n: int, absolute: bool = True) -> Self:
        """Keep the first `n` edges of the ranking.

        MIB's CPR uses the signed ranking; its CMD, and EAP-IG by default, the absolute one.

        Raises:
            UsageError: the graph has fewer edges.
        """
        check_size(n, len(self.graph))
        order, level = self._levels(absolute)
        kept = torch.zeros_like(self.kept)
        kept[order[:n]] = True
        tie = 0 < n < len(order) and bool(level[order[n - 1]] == level[order[n]])
        return self._select(kept, f"top {n} by {_measure(absolute)}{self._precedence()}", tie)

    def greedy(self, n: int, absolute: bool = True) -> Self:
        """Keep `n` edges grown from the logits, as EAP-IG's `apply_greedy` does.

        Each step adds the edge that ranks first among those into a node of the circuit. At first this node is the
        logits; then also every head or MLP that a kept edge comes from. So all edges have a path to the logits;
        `prune` drops those without a path from `input`.

        Raises:
            UsageError: the graph has fewer edges.
        """
        check_size(n, len(self.graph))
        kept, tie = grow(self.graph, self._levels(absolute)[1].tolist(), n)
        return self._select(kept, f"greedy {n} by {_measure(absolute)}{self._precedence()}", tie)

    def threshold(self, x: float, absolute: bool = True) -> Self:
        """Keep the edges whose |score| (or score, if not `absolute`) is at least `x`, whether kept before or not.

        Raises:
            UsageError: `x` is NaN.
        """
        if isinstance(x, bool) or not isinstance(x, int | float) or x != x:
            raise UsageError(f"The threshold {quote(x)} is no number.", "Give one such as 0.1.")
        return self._select(self._key(absolute) >= x, f"{_measure(absolute)} >= {x:g}", tie=False)

    def prune(self) -> Self:
        """Drop the edges that are not on a path of kept edges from `input` (or `positions`) to `logits`.

        A path reaches a head if it reaches its query, its key or its value, as in EAP-IG, or those of a coupled head.
        """
        reached = self.graph.reached_writers(self.kept)
        live = self.graph.live_readers(self.graph.live_writers(self.kept))
        # One pass is enough: an edge that stays is on a complete path, and all edges of that path stay
        kept = self.kept & reached[self.graph.writer_of] & live[self.graph.reader_of]
        return self._select(kept, f"{self.selection.removesuffix(_PRUNED)}{_PRUNED}", self.tie)

    def _key(self, absolute: bool) -> Tensor:
        return self.scores.abs() if absolute else self.scores

    def _levels(self, absolute: bool) -> tuple[Tensor, Tensor]:
        """Return the ranking, and the rank of each of its edges; edges of equal score and membership share a rank."""
        order = self.ranking(absolute)
        key, kept = self._key(absolute)[order], self.kept[order]
        level = torch.zeros_like(order)
        level[order[1:]] = ((key[1:] != key[:-1]) | (kept[1:] != kept[:-1])).cumsum(0)
        return order, level

    def _precedence(self) -> str:
        return "" if len(self) in (0, len(self.graph)) else ", kept edges first"

    def _select(self, kept: Tensor, selection: str, tie: bool) -> Self:
        return replace(self, kept=kept, selection=selection, tie=tie)

    # Two circuits

    def __and__(self, other: "Circuit") -> Self:
        """Keep the edges kept in both.

        Here and below, scores are the left circuit's, since scores of two searches are not comparable.
        """
        return self._combine(other, self.kept & self._same(other).kept, "and")

    def __or__(self, other: "Circuit") -> Self:
        """Keep the edges kept in either."""
        return self._combine(other, self.kept | self._same(other).kept, "or")

    def __sub__(self, other: "Circuit") -> Self:
        """Keep the edges kept in this circuit and not in the other."""
        return self._combine(other, self.kept & ~self._same(other).kept, "without")

    def jaccard(self, other: "Circuit") -> float:
        """Compute the Jaccard index: edges kept in both / edges kept in either; 1 for two empty circuits.

        Raises:
            UsageError: the circuits are of different graphs, or one is a ranking, of which no edges are chosen.
        """
        if self.is_ranking or _check_circuit(other).is_ranking:
            problem = f"{self if self.is_ranking else other} is a ranking: no edges are chosen yet."
            raise UsageError(problem, "Compare circuits of one size: a.top(100).jaccard(b.top(100)).")
        either = int((self.kept | self._same(other).kept).sum())
        return int((self.kept & other.kept).sum()) / either if either else 1.0

    def _combine(self, other: "Circuit", kept: Tensor, word: str) -> Self:
        return self._select(kept, f"({self.selection}) {word} ({other.selection})", self.tie or other.tie)

    def _same(self, other: "Circuit") -> "Circuit":
        if not same_edges(self.graph, _check_circuit(other).graph):
            raise UsageError(
                f"The circuits are of different graphs: {self.graph} and {other.graph}.",
                "Compare circuits of one model, both with kv='group' or (Circuit.expand_kv) both with kv='head'.",
            )
        return other

    # Keys and values of grouped-query attention

    def expand_kv(self) -> Self:
        """Convert to a graph that reads keys and values once per query head, as EAP-IG and MIB do.

        An edge into a group's key or value becomes one edge per query head of the group. A group's first-order score
        is the sum over its heads, since their gradients add. So each head's edge gets an equal part of it. Membership
        and score source are copied.
        """
        graph = replace(self.graph, kv="head")
        if same_edges(graph, self.graph):
            return replace(self, graph=graph)
        scores, kept, sources = split_groups(graph, self.graph, self.scores, self.kept, self.score_sources)
        return replace(self, graph=graph, scores=scores, kept=kept, score_sources=sources)

    def collapse_kv(self) -> Self:
        """Convert to a graph that reads keys and values once per group: the inverse of `expand_kv`.

        Scores of a group's heads are added. The group's edge is kept if any head's is, since it carries what that head
        needs. Its score source is that of the heads' scores, or `GIVEN` if they differ.
        """
        graph = replace(self.graph, kv="group")
        if same_edges(graph, self.graph):
            return replace(self, graph=graph)
        scores, kept, sources = join_groups(self.graph, graph, self.scores, self.kept, self.score_sources)
        return replace(self, graph=graph, scores=scores, kept=kept, score_sources=sources)

    # Files

    def to_spec(self) -> str:
        """Return what stands for this circuit in a configuration, which cannot hold it: a hash of edges and scores."""
        return f"Circuit {hash_values(self.graph, self.scores, self.kept)}"

    def save(self, folder: str | Path, name: str = "circuit") -> None:
        """Write `circuit.safetensors` and `circuit.json` (or files of another name) into a folder, created if missing.

        Raises:
            UsageError: the name would lead out of the folder.
            CircuitKitError: the files cannot be written.
        """
        contents = Contents(self.graph, self.scores, self.kept, self.score_sources, self.selection, self.tie)
        files.save(to_path(folder), name, contents)

    @classmethod
    def load(cls, folder: str | Path, name: str = "circuit") -> Self:
        """Read the files that `save` writes.

        Raises:
            CircuitKitError: a file is missing, damaged, of an unknown version, or not a circuit's.
        """
        contents = files.load(to_path(folder), name)
        try:
            return cls(*contents)
        except UsageError as error:
            raise _in_file(Path(folder) / f"{name}.safetensors", error) from error

    @classmethod
    def from_eap_ig(
        cls, path: str | Path, graph: EdgeGraph | None = None, *, scores_of: eap_ig_files.ScoresOf = "metric"
    ) -> Self:
        """Read a file of EAP-IG's `Graph.to_json` (`.json`) or `Graph.to_pt` (`.pt`).

        Args:
            path: the file.
            graph: the circuit's graph. By default the file's own, which reads keys and values once per query head; for
                a graph with `kv="group"`, `collapse_kv` joins the heads' edges.
            scores_of: what EAP-IG was given. With a loss (`loss=True`, as in MIB and in EAP-IG's notebooks), an edge
                that helps has a positive score, as here. With a metric it has a negative one, and signs change.

        Raises:
            UsageError: the file is of another graph, its name has another ending, or `scores_of` is unknown.
            CircuitKitError: the file is missing, damaged, or selects single neurons.
        """
        found, scores, kept = eap_ig_files.read_eap_ig(to_path(path), scores_of, graph)
        rule = _ALL if kept.all() else f"as kept in {Path(path).name}"
        try:
            circuit = cls(found, scores, kept, fill_score_sources(found, ScoreSource.GIVEN), rule)
        except UsageError as error:
            raise _in_file(path, error) from error
        return circuit if graph is None or graph.kv == "head" else circuit.collapse_kv()

    def to_eap_ig(self, path: str | Path, *, d_model: int, scores_of: eap_ig_files.ScoresOf = "metric") -> None:
        """Write a file for EAP-IG's `Graph.from_json` or `Graph.from_pt`.

        Keys and values are expanded to query heads (`expand_kv`), and scores are float32, as in EAP-IG.

        Args:
            path: the file, ending in `.json` or `.pt`.
            d_model: the model's residual width D. EAP-IG's files contain it, and EAP-IG needs it to read them.
            scores_of: as in `from_eap_ig`; choose "loss" where signs matter, as in MIB's CPR.

        Raises:
            UsageError: another ending; a graph without MLPs; infinite scores, in JSON; an unknown `scores_of`.
            CircuitKitError: the file cannot be written.
        """
        by_head = self.expand_kv()
        eap_ig_files.write_eap_ig(to_path(path), by_head.graph, by_head.scores, by_head.kept, d_model, scores_of)


def _check_circuit(other: Any) -> "Circuit":
    if not isinstance(other, Circuit):
        raise UsageError(f"{quote(other)} is no circuit.", "Give a Circuit.")
    return other


def _measure(absolute: bool) -> str:
    return "|score|" if absolute else "score"


def _in_file(path: str | Path, error: UsageError) -> CircuitKitError:
    return CircuitKitError(f"{path} holds no circuit: {error.problem}", "Save the circuit again.")
