"""What ACDC costs: whole searches by the incremental editor, and what one edge test costs in both editors.

Run: python benchmarks/acdc.py [--quick] [--smoke] [--prompts 4 16] [--points signed_0.3 ...]

SmolLM2-135M on IOI (template 0, corruption abc, all prompts of one length). For every operating point: the search's
wall time; an edge test's share of it, over one plain transformers forward of the same batch timed in the same run; a
replay test, as the mean over edges drawn evenly from those that the search tested, each evaluated by the replay editor
in the circuit as it stood at the end of the search; edges kept, and faithfulness on 32 held-out prompts. The last line
is one JSON object with `test_in_forwards`, `speedup` (over replay), `search_s`, `replay_in_forwards`, each by operating
point, and `peak_mb`.
"""

import argparse
import json
import time
from typing import NamedTuple

import torch
from timing import interleaved, peak_mb

from circuitkit import CircuitModel, PromptBatch
from circuitkit.circuit import Origin
from circuitkit.engine.ablation import Resample
from circuitkit.engine.greedy import Search
from circuitkit.engine.incremental import IncrementalEditor
from circuitkit.engine.replay import ReplayEditor
from circuitkit.engine.scene import Scene
from circuitkit.evaluation import Evaluator
from circuitkit.objective import KLDivergence, LogitDifference, Objective
from circuitkit.tasks.ioi import IOI


class Point(NamedTuple):
    """An operating point of the search."""

    objective: type[Objective]
    threshold: float
    absolute: bool


POINTS = {
    "signed_0.3": Point(LogitDifference, 0.3, False),
    "absolute_0.1": Point(LogitDifference, 0.1, True),
    "absolute_0.02": Point(LogitDifference, 0.02, True),
    "kl_0.1": Point(KLDivergence, 0.1, False),
    "kl_0.05": Point(KLDivergence, 0.05, False),
}
QUICK = ["signed_0.3", "absolute_0.1"]


def forward_seconds(model: CircuitModel, batch: PromptBatch) -> float:
    """One plain transformers forward, logits at the last position only."""

    def run() -> None:
        with torch.no_grad():
            model.model(batch.clean, use_cache=False, logits_to_keep=1)

    return interleaved({"forward": run}, 7)["forward"]


def replay_seconds(scene: Scene, search: Search, samples: int) -> float:
    """Mean seconds of an edge test by replay, over edges that the search tested."""
    graph = scene.model.graph
    tested = (search.origin == Origin.TESTED).nonzero()[:, 0]
    chosen = tested[torch.linspace(0, len(tested) - 1, samples).long()].tolist()
    editor = ReplayEditor([scene], search.kept)
    seconds = 0.0
    for edge in reversed(chosen):
        reader, writer = int(graph.reader_of[edge]), int(graph.writer_of[edge])
        editor.open(reader)
        removal = torch.zeros(1, graph.prefix(reader), dtype=torch.bool)
        removal[0, writer] = True
        start = time.perf_counter()
        editor.values(removal)
        seconds += time.perf_counter() - start
    return seconds / samples


def measure(model: CircuitModel, point: Point, prompts: int, replay_samples: int) -> dict[str, float]:
    """One search and what stands beside it."""
    task = IOI(template=0)
    batch, held_out = (task.prompts(model.tokenizer, split, n, 0) for split, n in (("train", prompts), ("test", 32)))
    scene = Scene(model, batch, point.objective(), Resample())
    forward = forward_seconds(model, batch)
    search = Search(IncrementalEditor([scene]), point.threshold, point.absolute)
    start = time.perf_counter()
    search.run()
    seconds = time.perf_counter() - start
    replay = replay_seconds(scene, search, replay_samples)
    evaluator = Evaluator([Scene(model, held_out, LogitDifference(), Resample())], "test")
    return {
        "forward_s": forward,
        "search_s": seconds,
        "test_in_forwards": seconds / search.tests / forward,
        "replay_in_forwards": replay / forward,
        "speedup": replay / (seconds / search.tests),
        "tests": search.tests,
        "hypotheses": search.hypotheses,
        "wasted": search.wasted,
        "gradients": search.gradients,
        "forward_equivalents": search.editor.forward_equivalents,
        "edges": int(search.kept.sum()),
        "faithfulness": evaluator.faithfulness(evaluator.value(search.kept)) or 0.0,
        "smallest_gap": search.smallest_gap,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help=f"{' and '.join(QUICK)} with 4 prompts")
    parser.add_argument("--smoke", action="store_true", help="signed_0.3 alone: does it run at all?")
    parser.add_argument("--prompts", type=int, nargs="+", default=[4, 16])
    parser.add_argument("--points", nargs="+", choices=list(POINTS), default=list(POINTS))
    parser.add_argument("--replay_samples", type=int, default=40)
    arguments = parser.parse_args()
    if arguments.quick or arguments.smoke:
        arguments.prompts, arguments.points = [4], QUICK if arguments.quick else QUICK[:1]
    model = CircuitModel.from_pretrained("smollm2-135m")
    model.model.requires_grad_(False)
    result: dict[str, dict[str, float]] = {}
    for prompts in arguments.prompts:
        for name in arguments.points:
            label = name if prompts == 4 else f"{name}_{prompts}_prompts"
            figures = measure(model, POINTS[name], prompts, arguments.replay_samples)
            print(label, json.dumps({key: round(value, 5) for key, value in figures.items()}), flush=True)
            for key, value in figures.items():
                result.setdefault(key, {})[label] = round(value, 5)
    if arguments.smoke:
        print(json.dumps(result))
        return
    task = IOI(template=0)
    scene = Scene(model, task.prompts(model.tokenizer, "train", 4, 0), LogitDifference(), Resample())
    peak = peak_mb(lambda: Search(IncrementalEditor([scene]), 0.3).run())
    print(json.dumps({**result, "peak_mb": round(peak, 1)}))


if __name__ == "__main__":
    main()
