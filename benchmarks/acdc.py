"""What ACDC costs: whole searches by the incremental editor, exact and screened, and an edge test by both editors.

Run: python benchmarks/acdc.py [--points signed_0.3 ...] [--screened absolute_0.02 ...] [--prompts 4 16]
                               [--save FILE] [--quick] [--smoke]

SmolLM2-135M on IOI (template 0, corruption abc, all prompts of one length). An operating point is named by its
criterion and threshold: `signed_0.3` and `absolute_0.1` for the logit difference, `kl_0.05` for the KL divergence
(signed). Searches at `--points` test every edge, which takes hours at low thresholds. Searches at `--screened` use
screening. Points in both lists are compared.

Figures of every search:

- its wall time, and the time of an edge test, relative to one plain transformers forward pass of the same batch timed
  in the same run;
- the time of a test by replay: the mean over edges drawn evenly from those that the search tested, each evaluated by
  the replay editor in the circuit that the search ended with;
- edges kept; on the prompts of the search, the circuit's KL divergence from the full model and its faithfulness, and
  the difference between the editor's last value of the objective and that of a masked run;
- faithfulness on 32 held-out prompts, for the objective of the search and for the logit difference.

They are printed as they come. With `--save` they are also appended to a file of JSON lines, and a search under way is
saved beside it every minute: the same command, started again, continues from there.

The committed search of `decisions.py` comes last, as `gpt2_decisions`. The last line is one JSON object:
`test_in_forwards`, `speedup` (over replay), `search_s`, `replay_in_forwards` and the other figures, each by operating
point (with 16 prompts `signed_0.3_16_prompts`); `screened`, the same for the screened searches, with `jaccard` to the
exact circuit; `peak_mb`, the memory that the search at signed 0.3 with 4 prompts adds.
"""

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import decisions
import fetched
import torch
from kept_edges import from_text, to_text
from timing import forward_seconds, peak_mb

from circuitkit import CircuitModel
from circuitkit.circuit.score_source import ScoreSource
from circuitkit.data.objectives import KLDivergence, LogitDifference, Objective
from circuitkit.data.prompt_batch import PromptBatch
from circuitkit.engine.ablation import Resample
from circuitkit.engine.editors.incremental import IncrementalEditor
from circuitkit.engine.editors.replay import ReplayEditor
from circuitkit.engine.prepared_batch import PreparedBatch
from circuitkit.engine.search.greedy import GreedySearch
from circuitkit.evaluation.evaluator import Evaluator
from circuitkit.storage.state import load_state, save_state
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
    """One search.

    Attributes:
        point: the operating point.
        prompts: how many.
        screen: the argument of `GreedySearch`; None: every edge is tested.
    """

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
    """Check the name of an operating point, for the command line."""
    criterion, _, threshold = name.partition("_")
    if criterion not in CRITERIA or not float(threshold) > 0:
        raise argparse.ArgumentTypeError(f"{name!r} is no operating point, such as signed_0.3, absolute_0.1 or kl_0.05")
    return name


class SavedSearch:
    """A search that saves its state as it goes, and counts its wall time over all starts.

    Args:
        job: the search.
        prepared: its prompts.
        file: of the state; None: the state is not saved.
    """

    def __init__(self, job: Job, prepared: PreparedBatch, file: Path | None) -> None:
        self._file, self._saved, self._spent = file, time.perf_counter(), 0.0
        self.editor = IncrementalEditor([prepared])
        self.search = GreedySearch(
            self.editor, job.threshold, job.absolute, screen=job.screen, on_reader_end=self._save
        )
        if file is not None and file.exists():
            state = load_state(file)
            self.search.load_state_dict(state["search"])
            self.editor.forward_equivalents, self._spent = state["forward_equivalents"], state["seconds"]

    def run(self) -> float:
        """Search to the end; return the seconds of all starts."""
        self._started = time.perf_counter()
        self.search.run()
        return self._seconds()

    def _seconds(self) -> float:
        return self._spent + time.perf_counter() - self._started

    def _save(self, search: GreedySearch) -> None:
        if time.perf_counter() - self._saved < SECONDS_BETWEEN_SAVES:
            return
        decided, kept = int(search.decided.sum()), int((search.kept & search.decided).sum())
        progress = f"{self._seconds():,.0f} s: {decided:,} of {len(search.kept):,} edges decided, {kept:,} kept"
        print(f"  {progress}, {search.tests:,} tested", file=sys.stderr, flush=True)
        if self._file is not None:
            counts = {"forward_equivalents": self.editor.forward_equivalents, "seconds": self._seconds()}
            save_state(self._file, {"search": search.state_dict(), **counts})
        self._saved = time.perf_counter()


def replay_seconds(prepared: PreparedBatch, search: GreedySearch, samples: int) -> float:
    """Time an edge test by replay: mean seconds over edges that the search tested."""
    graph = prepared.model.graph
    tested = (search.score_sources == ScoreSource.TESTED).nonzero()[:, 0]
    chosen = tested[torch.linspace(0, len(tested) - 1, samples).long()].tolist()
    editor = ReplayEditor([prepared], search.kept)
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
    """Run one search, and measure what it is compared with."""
    task = IOI(template=0)
    batch = task.prompts(model.tokenizer, "train", job.prompts, 0)
    held_out = task.prompts(model.tokenizer, "test", HELD_OUT, 0)
    prepared = PreparedBatch(model, batch, job.objective, Resample())
    forward = forward_seconds(model, batch)
    saved = SavedSearch(job, prepared, state)
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
        "masked_run_difference": masked_run_difference(saved.editor, prepared),
        **quality(model, search.kept, prepared, held_out, job),
    }
    if job.screen is None:
        replay, test = replay_seconds(prepared, search, replay_samples), seconds / search.tests
        figures |= {
            "test_in_forwards": test / forward,
            "replay_in_forwards": replay / forward,
            "speedup": replay / test,
        }
    return {name: round(value, 7) for name, value in figures.items()} | {"kept": to_text(search.kept)}


def masked_run_difference(editor: IncrementalEditor, prepared: PreparedBatch) -> float:
    """Compare the editor's value of the circuit that it ended with to that of a masked run."""
    last = editor.values(torch.zeros(0, editor.graph.prefix(editor.reader), dtype=torch.bool))
    return abs(float(last[0]) - Evaluator([prepared], "train").value(editor.kept))


def quality(
    model: CircuitModel, kept: torch.Tensor, prepared: PreparedBatch, held_out: PromptBatch, job: Job
) -> dict[str, float]:
    """Measure KL divergence and faithfulness on the prompts of the search, and faithfulness on held-out ones."""

    def evaluator(batch: PromptBatch, objective: Objective, split: str) -> Evaluator:
        return Evaluator([PreparedBatch(model, batch, objective, Resample())], split)

    own, difference = (evaluator(held_out, one, "test") for one in (job.objective, LogitDifference()))
    found = evaluator(prepared.batch, LogitDifference(), "train")
    return {
        "faithfulness_where_found": found.faithfulness(found.value(kept)) or 0.0,
        "kl": evaluator(prepared.batch, KLDivergence(), "train").value(kept),
        "faithfulness": difference.faithfulness(difference.value(kept)) or 0.0,
        "own_faithfulness": own.faithfulness(own.value(kept)) or 0.0,
    }


def saved_before(file: Path | None) -> dict[Job, Figures]:
    """Read the searches in a file of JSON lines."""
    if file is None or not file.exists():
        return {}
    records = [json.loads(line) for line in file.read_text().splitlines()]
    return {Job(*record.pop("job")): record for record in records}


def searches(model: CircuitModel, jobs: list[Job], file: Path | None, replay_samples: int) -> dict[Job, Figures]:
    """Return the figures of all jobs; those in the file are not measured again."""
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
    """Order figures by name and operating point; those of screened searches are in `screened`."""
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
    """Measure the resident memory that a search at signed 0.3 with 4 prompts adds."""
    prepared = PreparedBatch(
        model, IOI(template=0).prompts(model.tokenizer, "train", 4, 0), LogitDifference(), Resample()
    )
    return round(peak_mb(lambda: GreedySearch(IncrementalEditor([prepared]), 0.3).run()), 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--points", nargs="*", type=operating_point, default=EXACT, help="testing every edge")
    parser.add_argument("--screened", nargs="*", type=operating_point, default=SCREENED, help="with screening")
    parser.add_argument("--screen", type=float, default=0.25, help="screening accuracy, relative to the threshold")
    parser.add_argument("--prompts", type=int, nargs="+", default=[4, 16])
    parser.add_argument("--replay_samples", type=int, default=40)
    parser.add_argument("--save", type=Path, help="file of JSON lines with finished searches, read at the next start")
    parser.add_argument("--quick", action="store_true", help=f"{' and '.join(QUICK)}, exact, with 4 prompts")
    parser.add_argument("--smoke", action="store_true", help="check that the script runs: only signed_0.3, screened")
    arguments = parser.parse_args()
    fetched.require("smollm2-135m")
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
