"""What a search will hold and how long it may take, from a few timed edge tests.

An edge test costs what lies behind its reader in the circuit as it stands, which only the search itself finds out. Two
circuits bound it. In the *full model* everything behind the reader is computed: no search takes longer. A *sparse
circuit*, grown at random from the logits until it has `DENSITY` of the edges, stands for one that keeps little; readers
that it does not join to the logits are not tested at all. Readers are timed in a few layers, and what lies between is
interpolated. All of it is timed on a few prompts: time and memory grow in proportion to them.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Self

import numpy as np
import torch
from torch import Tensor

from circuitkit.circuit import Circuit
from circuitkit.engine import memory
from circuitkit.engine.editor import Editor
from circuitkit.engine.incremental import LARGEST_BATCH, IncrementalEditor
from circuitkit.engine.scene import Scene
from circuitkit.graph import Block, EdgeGraph

DENSITY = 0.01
"""Part of the edges that the sparse circuit keeps."""
PROMPTS = 4
"""Prompts that are timed at most."""
_FULL_LAYERS, _SPARSE_LAYERS = 3, 5
_FULL_HYPOTHESES, _SPARSE_HYPOTHESES = 1, 15
_SPARSE_READERS = 2


@dataclass(frozen=True)
class Estimate:
    """What a strategy will hold and take, as far as it can be told beforehand.

    Attributes:
        bytes: by part: `captures`, `live` state, `cone` (what one hypothesis adds); empty where it is not known.
        forward_s: seconds of one plain forward of all prompts.
        value_s: seconds of one hypothesis, mean over the edges tested: in the sparse circuit, in the full model.
        search_s: seconds of the whole search: if it keeps as little as the sparse circuit; if every test cost what it
            costs in the full model. None: there is no estimate.
        notes: what to know of these figures.
    """

    bytes: Mapping[str, int] = field(default_factory=dict)
    forward_s: float | None = None
    value_s: tuple[float, float] | None = None
    search_s: tuple[float, float] | None = None
    notes: tuple[str, ...] = ()

    def times(self, factor: float) -> Self:
        """The same for `factor` times as many prompts."""

        def both(pair: tuple[float, float] | None) -> tuple[float, float] | None:
            return None if pair is None else (factor * pair[0], factor * pair[1])

        return replace(
            self,
            bytes={name: round(factor * size) for name, size in self.bytes.items()},
            forward_s=None if self.forward_s is None else factor * self.forward_s,
            value_s=both(self.value_s),
            search_s=both(self.search_s),
        )


@dataclass(frozen=True)
class Preflight:
    """What a run would do, hold and take.

    Attributes:
        strategy, model: their names.
        edges: of the graph.
        prompts: of the train split; tokens: of the longest of them, padding included.
        weights: bytes of the model's weights under the policy, by kind.
        memory_budget: bytes.
        at_once: how many hypotheses fit into it together, at the largest cone; None where no cone is known.
        estimate: of the strategy, for all prompts.
        notes: what else a run would meet.
    """

    strategy: str
    model: str
    edges: int
    prompts: int
    tokens: int
    weights: Mapping[str, int]
    memory_budget: int
    at_once: int | None
    estimate: Estimate
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Timing:
    """What one reader took.

    Attributes:
        reader: its number.
        open_s: seconds to turn to it and to estimate the effects of its edges.
        value_s: seconds of one hypothesis.
        forwards: forward-equivalents of one hypothesis; None for an editor that does not count them.
        bytes: the editor's footprint then; empty for an editor that has none.
    """

    reader: int
    open_s: float
    value_s: float
    forwards: float | None
    bytes: Mapping[str, int]


@dataclass(frozen=True)
class Cost:
    """A search's cost by interpolation: `tests` edges into `readers` live readers, in `seconds`."""

    tests: int
    readers: int
    seconds: float
    value_s: float


def sparse_circuit(graph: EdgeGraph, density: float = DENSITY, seed: int = 0) -> Tensor:
    """A circuit grown at random from the logits, bool `[edges]`: every edge has a path to the logits."""
    scores = torch.rand(len(graph), generator=torch.Generator().manual_seed(seed))
    return Circuit.from_scores(graph, scores).greedy(max(1, round(density * len(graph)))).kept


def spread_layers(graph: EdgeGraph, count: int) -> list[int]:
    """The logits (layer L), and up to `count` layers evenly spaced from the last to the first."""
    spaced = torch.linspace(0, graph.layers - 1, min(count, graph.layers)).round().long().tolist()
    return [graph.layers, *reversed(spaced)]


def time_tests(
    editor: Editor, kept: Tensor, layers: Sequence[int], readers: int, hypotheses: int, gradients: bool = True
) -> list[Timing]:
    """Time edge tests as a search that ends with a circuit would meet them.

    Args:
        editor: a fresh one, on the full model.
        kept: that circuit, bool `[edges]`; what stands before a timed layer is whole.
        layers: in falling order, each once; `graph.layers` is the logits.
        readers: at most so many of each block's that are live, evenly spaced.
        hypotheses: removals in one call of `values`.
        gradients: whether the search estimates effects before it tests.
    """
    graph = editor.graph
    timings = []
    for layer in layers:
        blocks = [block for block in graph.blocks if block.layer == layer]
        at_start = kept.clone()
        at_start[: blocks[-1].edges.stop] = True
        editor.restart(at_start)
        for block in reversed(blocks):
            live = [reader for reader in block.readers if editor.live(reader)]
            for reader in _spaced(live, readers):
                timings.append(_timed(editor, reader, hypotheses, gradients))
                editor.commit(~kept[graph.edges(reader)])
    return timings


def _spaced(readers: Sequence[int], count: int) -> list[int]:
    """Up to `count` of some readers, evenly spaced, from the last to the first."""
    count = min(count, len(readers))
    return [readers[(2 * index + 1) * len(readers) // (2 * count)] for index in reversed(range(count))]


def _timed(editor: Editor, reader: int, hypotheses: int, gradients: bool) -> Timing:
    prefix = editor.graph.prefix(reader)
    removals = torch.arange(hypotheses)[:, None] % prefix == torch.arange(prefix)
    start = time.perf_counter()
    editor.open(reader)
    if gradients:
        editor.gradient()
    opened = time.perf_counter()
    counted = editor.forward_equivalents if isinstance(editor, IncrementalEditor) else None
    editor.values(removals)
    each = (time.perf_counter() - opened) / (hypotheses + 1)
    if not isinstance(editor, IncrementalEditor) or counted is None:
        return Timing(reader, opened - start, each, None, {})
    forwards = (editor.forward_equivalents - counted) / (hypotheses + 1)
    return Timing(reader, opened - start, each, forwards, editor.footprint())


def cost(graph: EdgeGraph, kept: Tensor, timings: Sequence[Timing]) -> Cost:
    """What the search takes that ends with a circuit: each block as the timed ones of its kind, interpolated."""
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
                readers = _live_readers(block, live)
                edges = readers * block.writers
                tests, opened = tests + edges, opened + readers
                testing += edges * float(np.interp(block.layer, at, values))
                seconds += readers * float(np.interp(block.layer, at, opens))
    return Cost(tests, opened, seconds + testing, testing / max(tests, 1))


def _live_readers(block: Block, live: Tensor) -> int:
    return int(live[block.readers.start : block.readers.stop].sum())


def forward_seconds(scenes: Sequence[Scene]) -> float:
    """Seconds of one plain forward of all prompts, up to the final stream; the second of two."""
    seconds = 0.0
    for _ in range(2):
        start = time.perf_counter()
        for scene in scenes:
            scene.model.final_stream(scene.batch).sum().item()  # waits for the device
        seconds = time.perf_counter() - start
    return seconds


def capture_bytes(scenes: Sequence[Scene]) -> int:
    """Bytes of clean and ablated outputs, 2 W B T D numbers."""
    model = scenes[0].model
    numbers = sum(2 * model.graph.n_writers * len(scene.batch) * scene.batch.length for scene in scenes)
    return numbers * model.family.width * torch.finfo(model.dtype).bits // 8


def estimate_search(make: Callable[[], Editor], searches: int = 1) -> Estimate:
    """Estimate greedy searches from the logits backwards.

    Args:
        make: makes a fresh editor on the full model.
        searches: how many, such as one a threshold.
    """
    editor = make()
    graph, scenes = editor.graph, editor.scenes
    everything, few = torch.ones_like(editor.kept), sparse_circuit(graph)
    full = _time_full(editor, everything)
    held = _held(editor, full)
    del editor  # with its captures, before the next one makes its own
    sparse = time_tests(make(), few, spread_layers(graph, _SPARSE_LAYERS), _SPARSE_READERS, _SPARSE_HYPOTHESES)
    most, least = cost(graph, everything, full), cost(graph, few, sparse)
    return Estimate(
        bytes=held,
        forward_s=forward_seconds(scenes),
        value_s=(least.value_s, most.value_s),
        search_s=(searches * least.seconds, searches * most.seconds),
        notes=(
            f"The shorter time is for a circuit of {int(few.sum()):,} edges ({DENSITY:.0%}), grown at random: "
            f"{least.tests:,} edges are tested.",
            f"The longer time is an upper bound: {most.tests:,} tests that cost what they cost in the full model.",
        ),
    )


def _time_full(editor: Editor, everything: Tensor) -> list[Timing]:
    """Without gradients: one a reader is little beside its tests, where each of them computes the whole rest."""
    layers = spread_layers(editor.graph, _FULL_LAYERS)
    return time_tests(editor, everything, layers, 1, _FULL_HYPOTHESES, gradients=False)


def estimate_single(make: Callable[[], Editor]) -> Estimate:
    """Estimate the test of every edge alone in the full model; arguments as of `estimate_search`."""
    editor = make()
    graph, everything = editor.graph, torch.ones_like(editor.kept)
    timings = _time_full(editor, everything)
    found = cost(graph, everything, timings)
    return Estimate(
        bytes=_held(editor, timings),
        forward_s=forward_seconds(editor.scenes),
        value_s=(found.value_s, found.value_s),
        search_s=(found.seconds, found.seconds),
    )


def _held(editor: Editor, timings: Sequence[Timing]) -> dict[str, int]:
    """The largest footprint met, by part."""
    parts: dict[str, int] = {}
    for timing in timings:
        parts |= {name: max(size, parts.get(name, 0)) for name, size in timing.bytes.items()}
    return parts or {"captures": capture_bytes(editor.scenes)}


def hypotheses_at_once(cone: int, available: int) -> int:
    """How many hypotheses are computed together, of `cone` bytes each, within `available` bytes."""
    return min(LARGEST_BATCH, memory.how_many(cone, available, "hypothesis of these prompts"))
