"""What ACDC costs: whole searches by the incremental editor, exact and screened, and an edge test in both editors.

Run: python benchmarks/acdc.py [--points signed_0.3 ...] [--screened absolute_0.02 ...] [--prompts 4 16]
                               [--save FILE] [--quick] [--smoke]

SmolLM2-135M on IOI (template 0, corruption abc, all prompts of one length). An operating point is named by its
criterion and threshold: `signed_0.3` and `absolute_0.1` are of the logit difference, `kl_0.05` of the KL divergence
(signed). `--points` are searched testing every edge, which takes hours at low thresholds; `--screened` with
screening; what is in both lists is compared.

For every search: its wall time; an edge test's share of it, over one plain transformers forward of the same batch timed
in the same run; a replay test, as the mean over edges drawn evenly from those that the search tested, each evaluated by
the replay editor in the circuit as it stood at the end of the search; edges kept; the circuit's KL divergence from the
full model and its faithfulness on the prompts it was found on, and how far the editor's last value of the objective is
from that of a masked run; faithfulness on 32 held-out prompts, under the point's own objective and under the logit
difference. Each search's figures are printed as they come. With `--save` they are also appended to a file of JSON
lines, and a search under way is saved beside it every minute: the same command, started again, goes on from there.

Last, the committed search of `decisions.py`, as `gpt2_decisions`. The last line is one JSON object: `test_in_forwards`,
`speedup` (over replay), `search_s`, `replay_in_forwards` and the other figures, each by operating point (16 prompts:
`signed_0.3_16_prompts`); `screened`, the same of the screened searches, with `jaccard` to the exact circuit; `peak_mb`,
what the search at signed 0.3 with 4 prompts adds.
"""

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import decisions
import torch
from kept_edges import from_text, to_text
from timing import forward_seconds, peak_mb

from circuitkit import CircuitModel
from circuitkit.circuit import Origin
from circuitkit.engine.ablation import Resample
from circuitkit.engine.greedy import Search
from circuitkit.engine.incremental import IncrementalEditor
from circuitkit.engine.replay import ReplayEditor
from circuitkit.engine.scene import Scene
from circuitkit.evaluation import Evaluator
from circuitkit.objective import KLDivergence, LogitDifference, Objective
from circuitkit.prompts import PromptBatch
from circuitkit.state_files import load_state, save_state
from circuitkit.tasks.ioi import IOI

CRITERIA: dict[str, tuple[type[Objective], bool]] = {
    "signed": (LogitDifference, False),
    "absolute": (LogitDifference, True),
    "kl": (KLDivergence, False),
}
EXACT = ["signed_0.3", "absolute_0.1", "kl_0.05"]
SCREENED = ["signed_0.3", "absolute_0.1", "absolute_0.02", "kl_0.05", "kl_0.01"]
QUICK = ["signed_0.3", "absolute_0.1"]
HELD_OUT = 32
SECONDS_BETWEEN_SAVES = 60.0
Figures = dict[str, Any]


class Job(NamedTuple):
    """One search: at an operating point, with so many prompts, screened or not."""

    point: str
    prompts: int
    screen: float | None

    @property
    def objective(self) -> Objective:
        return CRITERIA[self.point.partition("_")[0]][0]()

    @property
    def absolute(self) -> bool:
        return CRITERIA[self.point.partition("_")[0]][1]

    @property
    def threshold(self) -> float:
        return float(self.point.partition("_")[2])

    @property
    def label(self) -> str:
        return self.point if self.prompts == 4 else f"{self.point}_{self.prompts}_prompts"


def operating_point(name: str) -> str:
    """The name, if it is one."""
    criterion, _, threshold = name.partition("_")
    if criterion not in CRITERIA or not float(threshold) > 0:
        raise argparse.ArgumentTypeError(f"{name!r} is not such as signed_0.3, absolute_0.1 or kl_0.05")
    return name


class SavedSearch:
    """A search whose state is saved on the way, and its wall time over all starts.

    Args:
        job: which.
        scene: its prompts.
        file: where the state is; None: nowhere.
    """

    def __init__(self, job: Job, scene: Scene, file: Path | None) -> None:
        self._file, self._saved, self._spent = file, time.perf_counter(), 0.0
        self.editor = IncrementalEditor([scene])
        self.search = Search(self.editor, job.threshold, job.absolute, screen=job.screen, on_reader_end=self._save)
        if file is not None and file.exists():
            state = load_state(file)
            self.search.load_state_dict(state["search"])
            self.editor.forward_equivalents, self._spent = state["forward_equivalents"], state["seconds"]

    def run(self) -> float:
        """Search to the end; seconds in all."""
        self._started = time.perf_counter()
        self.search.run()
        return self._seconds()

    def _seconds(self) -> float:
        return self._spent + time.perf_counter() - self._started

    def _save(self, search: Search) -> None:
        if time.perf_counter() - self._saved < SECONDS_BETWEEN_SAVES:
            return
        decided, kept = int(search.decided.sum()), int((search.kept & search.decided).sum())
        said = f"{self._seconds():,.0f} s: {decided:,} of {len(search.kept):,} edges decided, {kept:,} kept"
        print(f"  {said}, {search.tests:,} tested", file=sys.stderr, flush=True)
        if self._file is not None:
            counted = {"forward_equivalents": self.editor.forward_equivalents, "seconds": self._seconds()}
            save_state(self._file, {"search": search.state_dict(), **counted})
        self._saved = time.perf_counter()


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


def measure(model: CircuitModel, job: Job, replay_samples: int, state: Path | None) -> Figures:
    """One search and what stands beside it."""
    task = IOI(template=0)
    batch, held_out = (
        task.prompts(model.tokenizer, split, n, 0) for split, n in (("train", job.prompts), ("test", HELD_OUT))
    )
    scene = Scene(model, batch, job.objective, Resample())
    forward = forward_seconds(model, batch)
    saved = SavedSearch(job, scene, state)
    seconds, search = saved.run(), saved.search
    figures = {
        "forward_s": forward,
        "search_s": seconds,
        "tests": search.tests,
        "joint_tests": search.joint_tests,
        "hypotheses": search.hypotheses,
        "wasted": search.wasted,
        "gradients": search.gradients,
        "forward_equivalents": saved.editor.forward_equivalents,
        "edges": int(search.kept.sum()),
        "smallest_gap": search.smallest_gap,
        **{f"{part}_mb": size / 2**20 for part, size in saved.editor.footprint().items() if part != "cone"},
        "off_a_masked_run": off_a_masked_run(saved.editor, scene),
        **quality(model, search.kept, scene, held_out, job),
    }
    if job.screen is None:
        replay, test = replay_seconds(scene, search, replay_samples), seconds / search.tests
        figures |= {
            "test_in_forwards": test / forward,
            "replay_in_forwards": replay / forward,
            "speedup": replay / test,
        }
    return {name: round(value, 7) for name, value in figures.items()} | {"kept": to_text(search.kept)}


def off_a_masked_run(editor: IncrementalEditor, scene: Scene) -> float:
    """How far the editor's value of the circuit it ended with is from a masked run's."""
    at_the_end = editor.values(torch.zeros(0, editor.graph.prefix(editor.reader), dtype=torch.bool))
    return abs(float(at_the_end[0]) - Evaluator([scene], "train").value(editor.kept))


def quality(model: CircuitModel, kept: torch.Tensor, scene: Scene, held_out: PromptBatch, job: Job) -> dict[str, float]:
    """KL divergence and faithfulness on the prompts of the search, and faithfulness on held-out ones."""

    def evaluator(batch: PromptBatch, objective: Objective, split: str) -> Evaluator:
        return Evaluator([Scene(model, batch, objective, Resample())], split)

    own, difference = (evaluator(held_out, one, "test") for one in (job.objective, LogitDifference()))
    found = evaluator(scene.batch, LogitDifference(), "train")
    return {
        "faithfulness_where_found": found.faithfulness(found.value(kept)) or 0.0,
        "kl": evaluator(scene.batch, KLDivergence(), "train").value(kept),
        "faithfulness": difference.faithfulness(difference.value(kept)) or 0.0,
        "own_faithfulness": own.faithfulness(own.value(kept)) or 0.0,
    }


def saved_before(file: Path | None) -> dict[Job, Figures]:
    """The searches that a file of JSON lines holds."""
    if file is None or not file.exists():
        return {}
    records = [json.loads(line) for line in file.read_text().splitlines()]
    return {Job(*record.pop("job")): record for record in records}


def searches(model: CircuitModel, jobs: list[Job], file: Path | None, replay_samples: int) -> dict[Job, Figures]:
    """The figures of all jobs, those in the file as they are there."""
    found = saved_before(file)
    for job in jobs:
        if job not in found:
            print(f"{job.label}{' screened' if job.screen else ''}:", file=sys.stderr, flush=True)
            state = None if file is None else file.with_name(f"{file.name}.{job.label}.{job.screen or 'exact'}.state")
            found[job] = measure(model, job, replay_samples, state)
            if file is not None and state is not None:
                with file.open("a") as lines:
                    lines.write(json.dumps({"job": job, **found[job]}) + "\n")
                state.unlink(missing_ok=True)
        shown = {name: value for name, value in found[job].items() if name != "kept"}
        print(job.label, "exact" if job.screen is None else f"screened at {job.screen}", json.dumps(shown), flush=True)
    return {job: found[job] for job in jobs}


def by_figure(found: dict[Job, Figures], edges: int) -> dict[str, Any]:
    """The figures of exact searches by name and operating point, and likewise, under `screened`, of the others."""
    result: dict[str, Any] = {"screened": {}}
    for job, figures in found.items():
        into = result if job.screen is None else result["screened"]
        for name, value in figures.items():
            if name != "kept":
                into.setdefault(name, {})[job.label] = value
        exact = found.get(job._replace(screen=None))
        if job.screen is not None and exact is not None:
            one, other = (from_text(each["kept"], edges) for each in (figures, exact))
            jaccard = int((one & other).sum()) / max(int((one | other).sum()), 1)
            into.setdefault("jaccard", {})[job.label] = round(jaccard, 5)
    return result


def search_peak_mb(model: CircuitModel) -> float:
    """What a search at signed 0.3 with 4 prompts adds to the resident memory."""
    scene = Scene(model, IOI(template=0).prompts(model.tokenizer, "train", 4, 0), LogitDifference(), Resample())
    return round(peak_mb(lambda: Search(IncrementalEditor([scene]), 0.3).run()), 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--points", nargs="*", type=operating_point, default=EXACT, help="testing every edge")
    parser.add_argument("--screened", nargs="*", type=operating_point, default=SCREENED, help="with screening")
    parser.add_argument("--screen", type=float, default=0.25, help="the part of the threshold to screen by")
    parser.add_argument("--prompts", type=int, nargs="+", default=[4, 16])
    parser.add_argument("--replay_samples", type=int, default=40)
    parser.add_argument("--save", type=Path, help="JSON lines of what is done, read at the next start")
    parser.add_argument("--quick", action="store_true", help=f"{' and '.join(QUICK)}, exact, with 4 prompts")
    parser.add_argument("--smoke", action="store_true", help="signed_0.3 screened alone: does it run at all?")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.prompts, arguments.points, arguments.screened = [4], QUICK, []
    if arguments.smoke:
        arguments.prompts, arguments.points, arguments.screened = [4], [], QUICK[:1]
    model = CircuitModel.from_pretrained("smollm2-135m")
    model.model.requires_grad_(False)
    jobs = [
        Job(point, prompts, screen)
        for prompts in arguments.prompts
        for points, screen in ((arguments.points, None), (arguments.screened, arguments.screen))
        for point in points
    ]
    found = by_figure(searches(model, jobs, arguments.save, arguments.replay_samples), len(model.graph))
    if not arguments.smoke:
        for name, value in decisions.measure(6, 12).items():
            found.setdefault(name, {})["gpt2_decisions"] = round(value, 5)
        found["peak_mb"] = search_peak_mb(model)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
