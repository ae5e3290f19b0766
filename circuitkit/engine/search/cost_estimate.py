"""The memory and time that a search will need, estimated from a few timed edge tests.

The cost of an edge test depends on the circuit downstream of its reader at that time, which only the search itself
finds. So tests are timed in two circuits. In the *full model*, everything downstream of the reader is computed: no
search takes longer. A *sparse circuit*, grown at random from the logits until it has `DENSITY` of the edges, represents
a search that keeps few edges; readers without a path to the logits in it are not tested. Readers are timed in a few
layers, and layers between them are interpolated. Only a few prompts are timed: time and memory are proportional to
their number.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Self

import numpy as np
import torch
from torch import Tensor

from circuitkit.circuit.circuit import Circuit
from circuitkit.circuit.graph import EdgeGraph
from circuitkit.circuit.score_source import ScoreSource
from circuitkit.circuit.values import fill_score_sources
from circuitkit.engine.editors.base import Editor
from circuitkit.engine.prepared_batch import PreparedBatch

DENSITY = 0.01
"""Fraction of the edges that the sparse circuit keeps."""
PROMPTS = 4
"""The largest number of prompts that are timed."""
_FULL_LAYERS, _SPARSE_LAYERS = 3, 5
_FULL_HYPOTHESES, _SPARSE_HYPOTHESES = 1, 15
_SPARSE_READERS = 2
_SPARSE_PART = 0.25
"""The largest part of a starting circuit that the sparse circuit keeps."""


@dataclass(frozen=True)
class CostEstimate:
    """The memory and time that a strategy will need.

    Attributes:
        bytes: in the full model, by part: `captures`, `live` state, `cone` (per hypothesis) and `copies`; empty if
            unknown.
        start_bytes: likewise at the search's first reader; a search that keeps few edges takes little more.
        forward_s: seconds per forward pass of all prompts.
        value_s: seconds per hypothesis, mean over the edges tested: in the sparse circuit, and in the full model.
        search_s: seconds of the whole search: if it ends with the sparse circuit, and if every test takes as long as in
            the full model. None: there is no estimate.
        notes: sentences for the user that explain these figures.
    """

    bytes: Mapping[str, int] = field(default_factory=dict)
    start_bytes: Mapping[str, int] = field(default_factory=dict)
    forward_s: float | None = None
    value_s: tuple[float, float] | None = None
    search_s: tuple[float, float] | None = None
    notes: tuple[str, ...] = ()

    def times(self, factor: float) -> Self:
        """Return the estimate for `factor` times as many prompts."""

        def both(pair: tuple[float, float] | None) -> tuple[float, float] | None:
            return None if pair is None else (factor * pair[0], factor * pair[1])

        return replace(
            self,
            bytes={name: round(factor * size) for name, size in self.bytes.items()},
            start_bytes={name: round(factor * size) for name, size in self.start_bytes.items()},
            forward_s=None if self.forward_s is None else factor * self.forward_s,
            value_s=both(self.value_s),
            search_s=both(self.search_s),
        )


@dataclass(frozen=True)
class Timing:
    """The timing of one reader.

    Attributes:
        reader: its number.
        open_s: seconds to open it and to estimate the effects of its edges.
        value_s: seconds per hypothesis.
        forwards: forward-equivalents per hypothesis.
        bytes: the editor's footprint while the reader is open.
    """

    reader: int
    open_s: float
    value_s: float
    forwards: float
    bytes: Mapping[str, int]


@dataclass(frozen=True)
class Cost:
    """A search's interpolated cost: `tests` edge tests at `readers` live readers take `seconds`, `value_s` per test."""

    tests: int
    readers: int
    seconds: float
    value_s: float


def sparse_circuit(graph: EdgeGraph, density: float = DENSITY, seed: int = 0) -> Tensor:
    """Grow a circuit at random from the logits, bool `[edges]`: every edge has a path to the logits."""
    return _grow(torch.ones(len(graph), dtype=torch.bool), graph, density, seed)


def _grow(within: Tensor, graph: EdgeGraph, density: float, seed: int = 0) -> Tensor:
    """Grow a circuit at random within another one."""
    scores = torch.rand(len(graph), generator=torch.Generator().manual_seed(seed), dtype=torch.float32)
    ranking = Circuit(graph, scores, within, fill_score_sources(graph, ScoreSource.GIVEN))
    return ranking.greedy(max(1, min(round(density * len(graph)), int(within.sum())))).kept & within


def spread_layers(graph: EdgeGraph, count: int) -> list[int]:
    """List the logits (layer L), and up to `count` layers evenly spaced from the last to the first."""
    spaced = torch.linspace(0, graph.layers - 1, min(count, graph.layers), dtype=torch.float32).round().long().tolist()
    return [graph.layers, *reversed(spaced)]


def time_tests(
    editor: Editor, kept: Tensor, layers: Sequence[int], readers: int, hypotheses: int, gradients: bool = True
) -> list[Timing]:
    """Time edge tests as they would occur in a search that ends with a given circuit.

    Args:
        editor: a new one, on the starting circuit.
        kept: that circuit, bool `[edges]`; the layers before a timed layer keep all edges that the editor has.
        layers: in descending order, each once; `graph.layers` is the logits.
        readers: the largest number of readers per block, evenly spaced among its live ones.
        hypotheses: removals per call of `values`.
        gradients: whether the search estimates effects before it tests.
    """
    graph, start = editor.graph, editor.kept.clone()
    timings = []
    for layer in layers:
        blocks = [block for block in graph.blocks if block.layer == layer]
        at_start, before = kept.clone(), slice(blocks[-1].edges.stop)
        at_start[before] = start[before]
        editor.restart(at_start)
        for block in reversed(blocks):
            live = [reader for reader in block.readers if editor.is_live(reader)]
            for reader in _spaced(live, readers):
                timings.append(_timed(editor, reader, hypotheses, gradients))
                editor.commit(~kept[graph.edges(reader)])
    return timings


def _spaced(readers: Sequence[int], count: int) -> list[int]:
    """Choose up to `count` readers, evenly spaced, from the last to the first."""
    count = min(count, len(readers))
    return [readers[(2 * index + 1) * len(readers) // (2 * count)] for index in reversed(range(count))]


def _timed(editor: Editor, reader: int, hypotheses: int, gradients: bool) -> Timing:
    prefix = editor.graph.prefix(reader)
    removals = torch.arange(hypotheses, dtype=torch.int64)[:, None] % prefix == torch.arange(prefix, dtype=torch.int64)
    start = time.perf_counter()
    editor.open(reader)
    if gradients:
        editor.gradient()
    if editor.model.device.type == "cuda":  # a call returns before its work is done; `values` waits
        torch.cuda.synchronize(editor.model.device)
    opened = time.perf_counter()
    counted = editor.forward_equivalents
    editor.values(removals)
    each = (time.perf_counter() - opened) / (hypotheses + 1)
    forwards = (editor.forward_equivalents - counted) / (hypotheses + 1)
    return Timing(reader, opened - start, each, forwards, editor.footprint())


def cost(graph: EdgeGraph, kept: Tensor, timings: Sequence[Timing], start: Tensor | None = None) -> Cost:
    """Add up the cost of a search, interpolating between timed blocks of a kind.

    Args:
        graph: of the edges.
        kept: the circuit that the search ends with, bool `[edges]`.
        timings: of readers.
        start: the circuit that it starts with; by default the full model.
    """
    tested = torch.ones_like(kept) if start is None else start
    live = graph.live_readers(graph.live_writers(kept))
    tests = opened = 0
    seconds = testing = 0.0
    for kind in ("attention", "mlp", "logits"):
        timed: dict[int, list[Timing]] = {}
        for timing in timings:
            if (block := graph.block(timing.reader)).kind == kind:
                timed.setdefault(block.layer, []).append(timing)
        if not timed:
            continue
        at = sorted(timed)
        opens = [float(np.mean([timing.open_s for timing in timed[layer]])) for layer in at]
        values = [float(np.mean([timing.value_s for timing in timed[layer]])) for layer in at]
        for block in graph.blocks:
            if block.kind == kind:
                readers = [reader for reader in block.readers if live[reader] and tested[graph.edges(reader)].any()]
                edges = sum(int(tested[graph.edges(reader)].sum()) for reader in readers)
                tests, opened = tests + edges, opened + len(readers)
                testing += edges * float(np.interp(block.layer, at, values))
                seconds += len(readers) * float(np.interp(block.layer, at, opens))
    return Cost(tests, opened, seconds + testing, testing / max(tests, 1))


def forward_seconds(prepared_batches: Sequence[PreparedBatch]) -> float:
    """Time one forward pass of all prompts, up to the final stream, after one to warm up."""
    seconds = 0.0
    for _ in range(2):
        start = time.perf_counter()
        for prepared in prepared_batches:
            prepared.model.final_stream(prepared.batch).sum().item()  # waits for the device
        seconds = time.perf_counter() - start
    return seconds


def estimate_search(make: Callable[[], Editor], searches: tuple[int, int] = (1, 1)) -> CostEstimate:
    """Estimate the cost of greedy searches from the logits backwards.

    Args:
        make: makes a new editor on the starting circuit, such as the full model.
        searches: the smallest and the largest number of searches that take as long as the first.
    """
    editor = make()
    graph, prepared_batches = editor.graph, editor.prepared_batches
    start = editor.kept.clone()
    few = _grow(start, graph, min(DENSITY, float(start.double().mean()) * _SPARSE_PART))
    full = _time_full(editor)
    held = _held(full)
    del editor  # frees its captures before the next one makes its own
    sparse = time_tests(make(), few, spread_layers(graph, _SPARSE_LAYERS), _SPARSE_READERS, _SPARSE_HYPOTHESES)
    most, least = cost(graph, start, full, start), cost(graph, few, sparse, start)
    whole, part = "full model" if start.all() else "starting circuit", few.double().mean()
    return CostEstimate(
        bytes=held,
        start_bytes=_held(sparse[:1]),
        forward_s=forward_seconds(prepared_batches),
        value_s=(least.value_s, most.value_s),
        search_s=(searches[0] * least.seconds, searches[1] * most.seconds),
        notes=(
            f"The shorter time is for a circuit of {int(few.sum()):,} edges ({part:.0%}), grown at random: "
            f"{least.tests:,} edges are tested.",
            f"The longer time is an upper bound: {most.tests:,} tests that take as long as in the {whole}.",
        ),
    )


def _time_full(editor: Editor) -> list[Timing]:
    """Time the starting circuit, without gradients: tests that compute everything downstream take far longer."""
    layers = spread_layers(editor.graph, _FULL_LAYERS)
    return time_tests(editor, editor.kept.clone(), layers, 1, _FULL_HYPOTHESES, gradients=False)


def estimate_single(make: Callable[[], Editor]) -> CostEstimate:
    """Estimate the cost of testing every edge alone in a circuit; `make` as in `estimate_search`."""
    editor = make()
    start = editor.kept.clone()
    timings = _time_full(editor)
    found = cost(editor.graph, start, timings, start)
    return CostEstimate(
        bytes=_held(timings),
        forward_s=forward_seconds(editor.prepared_batches),
        value_s=(found.value_s, found.value_s),
        search_s=(found.seconds, found.seconds),
    )


def _held(timings: Sequence[Timing]) -> dict[str, int]:
    """Return the largest footprint of the timed readers, by part."""
    parts: dict[str, int] = {}
    for timing in timings:
        parts |= {name: max(size, parts.get(name, 0)) for name, size in timing.bytes.items()}
    return parts
