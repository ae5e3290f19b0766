"""The result of a run, in memory and as a folder.

A run folder holds

- `config.yaml`: the resolved configuration; `circuitkit discover --config` accepts it;
- `circuit.safetensors` and `circuit.json`: the circuit, or the first of several; the next are `circuit_2`, ...;
- `metrics.csv`: the figures logged during the run;
- `prompts.parquet`: the value of every prompt in every evaluation (see `prompt_table`), if there are evaluations;
- `answers.parquet`: the prompts of one split as text, and what the full model and the circuits answer (see
  `answer_table`), if the run evaluated them;
- `score_intervals.parquet`: the interval of every edge's score (see `ScoreIntervals`), if the strategy estimates scores
  prompt by prompt;
- `result.json`: everything else, in strict JSON (numbers that are not finite are null). It is written last: a folder
  without it is not a finished run.
"""

import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from circuitkit.circuit.circuit import Circuit
from circuitkit.config import specs
from circuitkit.config.checks import check_flags
from circuitkit.errors import CircuitKitError, UsageError
from circuitkit.evaluation.answer_table import read_answer_table, write_answer_table
from circuitkit.evaluation.answers import Answers
from circuitkit.evaluation.evaluation import Evaluation
from circuitkit.evaluation.prompt_table import PromptValues, write_prompt_table
from circuitkit.evaluation.score_intervals import ScoreIntervals
from circuitkit.interrupts import hold_signals
from circuitkit.report.estimate import Estimate
from circuitkit.report.notebook import show
from circuitkit.report.result_table import own_faithfulness, result_table
from circuitkit.report.result_view import result_html
from circuitkit.report.summary import SHOWN, summarize
from circuitkit.run.run_folder import CONFIG, METRICS, RESULT, RunFolder, can_resume, finish_writing, how_to_resume
from circuitkit.storage.files import read_bytes, read_json, to_path, write_atomically
from circuitkit.storage.shapes import check_shape
from circuitkit.storage.text import read_csv, read_yaml, to_csv, to_json, to_yaml

if TYPE_CHECKING:
    from pandas import DataFrame

VERSION = 2
PROMPTS, ANSWERS, INTERVALS = "prompts.parquet", "answers.parquet", "score_intervals.parquet"
_SHAPE = {"circuits": [{"file": str}], "metrics": dict, "evaluations": dict, "notes": [str], "environment": dict}
_CONFIG_SHAPE = {
    **dict.fromkeys(("model", "kv", "dtype"), str),
    **{key: {"class_path": str} for key in ("task", "strategy", "precision", "objective", "ablation")},
    "examples": (int, list),
    "seed": int,
}


class UnsavedResultError(CircuitKitError):
    """A finished run's folder could not be filled.

    Args:
        problem, remedy: as in `CircuitKitError`; the remedy says where the result was saved instead.
        result: the result.
    """

    def __init__(self, problem: str, remedy: str, result: "Result") -> None:
        super().__init__(problem, remedy)
        self.result = result


class DamagedAnswersError(CircuitKitError):
    """A run's `answers.parquet` is damaged, but everything else could be read.

    Args:
        problem, remedy: as in `CircuitKitError`.
        result: the result without answers.
    """

    def __init__(self, problem: str, remedy: str, result: "Result") -> None:
        super().__init__(problem, remedy)
        self.result = result


@dataclass(frozen=True, repr=False)
class Result:
    """The circuits of a discovery, how faithful they are, and what they cost. `print` shows a summary.

    Attributes:
        circuits: one per operating point of the strategy, such as a threshold.
        evaluations: by split (`train`: the prompts on which the circuits were found; `test`: held out), one per
            circuit; empty if none was asked for.
        metrics: figures of the run and its strategy: `edges_tested`, `wall_s` and `load_s` (seconds), `peak_mb` and
            `load_peak_mb` (2**20 bytes; see `ResourceMonitor`), `smallest_gap`, ...
        config: the resolved configuration, seed included.
        environment: time, versions of the packages, and the machine.
        notes: caveats, such as that the evaluation failed.
        history: the rows of `metrics.csv`.
        answers: the prompts of the test split (or of the only one that was evaluated) as text, and what the full model
            and the circuits answer, with probabilities; empty if the run evaluated nothing, or was saved by an earlier
            version.
        score_intervals: the intervals over prompts of the first circuit's scores, for a strategy that estimates scores
            prompt by prompt (EAP and its kin) on at least 5 prompts; otherwise None.
    """

    circuits: list[Circuit]
    evaluations: dict[str, list[Evaluation]]
    metrics: dict[str, Any]
    config: dict[str, Any]
    environment: dict[str, Any]
    notes: list[str] = field(default_factory=list)
    history: list[dict[str, Any]] = field(default_factory=list)
    answers: Answers = field(default_factory=Answers)
    score_intervals: ScoreIntervals | None = None

    @property
    def circuit(self) -> Circuit:
        """The first circuit."""
        return self.circuits[0]

    @property
    def faithfulness(self) -> Estimate:
        """The faithfulness of the first circuit on the held-out prompts (test), in the searched objective.

        It is 1 for the full model and 0 for the ablated one, and NaN where these do equally well. It prints with its
        95% interval over prompts (`low`, `high`), and computes and compares as a float.

        Raises:
            UsageError: the result is a mere ranking, whose sizes are in `to_pandas()`, or was not evaluated.
        """
        return own_faithfulness(self.circuits, self.evaluations)

    def to_pandas(self) -> "DataFrame":
        """Return a table with a row per circuit, split and point of its evaluation.

        `circuit` is the circuit's number, from 1, and `operating_point` says how it was selected. The other columns are
        those of `Evaluation.to_pandas`. Without evaluations the table has no rows.
        """
        return result_table(self.circuits, self.evaluations, self.config)

    def show(self) -> None:
        """Show the circuits.

        In a notebook they are displayed. Elsewhere the summary is printed, and the circuits are drawn on a page in a
        temporary folder, which the browser opens if there is a display.

        Raises:
            CircuitKitError: the page cannot be written.
        """
        show(self, repr(self), self._repr_html_)

    def _repr_html_(self) -> str:
        return result_html(self.circuits, self.evaluations, _label(self.config, "strategy", "strategies"), str(self))

    def save(self, folder: str | Path, *, overwrite: bool = False) -> None:
        """Write a run folder, completely or not at all.

        Args:
            folder: the folder, created if it is missing.
            overwrite: replace results in it.

        Raises:
            UsageError: the folder holds results.
            CircuitKitError: it cannot be written.
        """
        check_flags(overwrite=overwrite)
        with RunFolder(folder, overwrite=overwrite).open() as target:
            target.fill(self.write)

    def save_or_rescue(self, folder: RunFolder, unevaluated: bool = False) -> None:
        """Write to a run's open folder; where that fails, save the result in a new folder somewhere else.

        Args:
            folder: the run's folder.
            unevaluated: save the search for now, since its evaluation follows, instead of filling the folder.

        Raises:
            UnsavedResultError: the folder could not be filled; the message says where the result is.
        """
        with hold_signals():
            try:
                (folder.save_search if unevaluated else folder.fill)(self.write)
            except Exception as error:
                problem = error.problem if isinstance(error, CircuitKitError) else f"{folder.path}: {error!r}."
                raise UnsavedResultError(problem, self._rescue(), self) from error

    def _rescue(self) -> str:
        """Save the result in a new folder; return a sentence that says where."""
        for place in (tempfile.gettempdir(), "."):
            try:
                folder = Path(tempfile.mkdtemp(prefix="circuitkit-", dir=place))
            except OSError:
                continue
            try:
                self.save(folder)
            except (CircuitKitError, OSError):
                shutil.rmtree(folder, ignore_errors=True)
                continue
            return f"The result is saved in {folder.resolve()}."
        return "It could not be saved elsewhere either: save `exception.result` in Python."

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """Read a run folder.

        Raises:
            UsageError: the folder is not a finished run.
            DamagedAnswersError: only the answers cannot be read.
            CircuitKitError: a file is missing or damaged.
        """
        folder = to_path(folder)
        finish_writing(folder)
        found = _read_result(folder / RESULT)
        with _damage(folder / RESULT):
            check_shape(found, _SHAPE, "it")
            shown = {name: found["metrics"][name] for name in SHOWN if name in found["metrics"]}
            check_shape(shown, dict.fromkeys(shown, (float, type(None))), "metrics")
            if not found["circuits"]:
                raise ValueError("it has no circuits")
            for name in (one["file"] for one in found["circuits"]):
                if os.path.basename(name) != name:  # noqa: PTH119
                    raise ValueError(f"its circuit {name!r} lies in another folder")
            evaluations = _read_evaluations(folder, found["evaluations"], len(found["circuits"]))
        config = read_yaml(folder / CONFIG)
        with _damage(folder / CONFIG):
            check_shape(config, _CONFIG_SHAPE, "it")
        circuits = [Circuit.load(folder, one["file"]) for one in found["circuits"]]
        result = cls(
            circuits=circuits,
            score_intervals=_read_intervals(folder / INTERVALS, circuits[0]),
            evaluations=evaluations,
            config=config,
            history=read_csv(folder / METRICS),
            **{key: found[key] for key in ("metrics", "environment", "notes")},
        )
        try:
            return replace(result, answers=_read_answers(folder / ANSWERS, evaluations))
        except CircuitKitError as error:
            raise DamagedAnswersError(error.problem, error.remedy, result) from error

    def write(self, folder: Path) -> None:
        """Write all files into an existing folder; see `RunFolder.fill`."""
        for name, circuit in zip(_circuit_names(len(self.circuits)), self.circuits, strict=True):
            circuit.save(folder, name)
        tables = {PROMPTS: write_prompt_table(self.evaluations)} if self.evaluations else {}
        if self.answers and self.answers.split in self.evaluations:  # which may have been taken out
            tables[ANSWERS] = write_answer_table(self.answers)
        if self.score_intervals is not None:
            tables[INTERVALS] = self.score_intervals.to_parquet()
        files = {
            CONFIG: to_yaml(self.config).encode(),
            METRICS: to_csv(self.history).encode(),
            **tables,
            RESULT: to_json(self.to_dict()),
        }
        for file, data in files.items():
            write_atomically(folder / file, data)

    def to_dict(self) -> dict[str, Any]:
        """Return the content of `result.json`."""
        circuits = [
            {"file": name, "selection": circuit.selection, "edges": len(circuit), "of": len(circuit.graph)}
            for name, circuit in zip(_circuit_names(len(self.circuits)), self.circuits, strict=True)
        ]
        return {
            "version": VERSION,
            "circuits": circuits,
            "metrics": self.metrics,
            "evaluations": {split: [one.to_dict() for one in found] for split, found in self.evaluations.items()},
            "notes": self.notes,
            "config": self.config,
            "environment": self.environment,
        }

    def __repr__(self) -> str:
        what, task = _label(self.config, "strategy", "strategies"), _label(self.config, "task", "tasks")
        found = ", ".join(f"{len(circuit):,} of {len(circuit.graph):,} edges" for circuit in self.circuits)
        return f"Result({what} on {task}, in {self.config.get('model')}: {found})"

    def __str__(self) -> str:
        return summarize(self.circuits, self.evaluations, self.metrics, self.config, self.notes)


def _label(config: Mapping[str, Any], key: str, kind: str) -> str:
    return specs.label(kind, config.get(key, {}))


def _circuit_names(count: int) -> list[str]:
    return ["circuit" if number == 1 else f"circuit_{number}" for number in range(1, count + 1)]


def _read_evaluations(folder: Path, found: Mapping[str, Any], circuits: int) -> dict[str, list[Evaluation]]:
    """Make the evaluations of a run folder, with the values of single prompts.

    Raises:
        ValueError: something is missing, or is not of its kind.
        CircuitKitError: the values cannot be read.
    """
    if not found:
        return {}
    shape = {"full": dict, "points": list, "minimality": list, "prompts": int}
    check_shape(found, {key: [shape] for key in found}, "evaluations")
    with _damage(folder / PROMPTS):
        values = PromptValues(read_bytes(folder / PROMPTS))
    evaluations: dict[str, list[Evaluation]] = {}
    for split, of_circuits in found.items():
        if len(of_circuits) != circuits:
            raise ValueError(f"it has {len(of_circuits)} evaluations of {circuits} circuits")
        evaluations[split] = []
        for one in of_circuits:
            with _damage(folder / PROMPTS):
                taken = values.take(list(one["full"]), len(one["points"] + one["minimality"]), one["prompts"])
            evaluations[split].append(Evaluation.from_dict(one, taken))
    with _damage(folder / PROMPTS):
        values.finish()
    for of_splits in zip(*evaluations.values(), strict=True):
        if len({(frozenset(one.full), len(one.points)) for one in of_splits}) > 1:
            raise ValueError("its splits have different measures or points")
    return evaluations


def _read_answers(path: Path, evaluations: Mapping[str, list[Evaluation]]) -> Answers:
    """Read the answers of a run folder; runs of earlier versions have none."""
    if not path.exists():
        return Answers()
    with _damage(path):
        return read_answer_table(read_bytes(path), evaluations)


def _read_intervals(path: Path, circuit: Circuit) -> ScoreIntervals | None:
    if not path.exists():
        return None
    with _damage(path):
        return ScoreIntervals.from_parquet(read_bytes(path), circuit.graph.names)


@contextmanager
def _damage(path: Path) -> Iterator[None]:
    """Turn the `ValueError` of a check into an error that names the file."""
    try:
        yield
    except ValueError as error:
        raise CircuitKitError(f"{path} is damaged: {error}.", "Run the discovery again.") from error


def _read_result(path: Path) -> dict[str, Any]:
    if not path.exists():
        if can_resume(path.parent):
            raise UsageError(
                f"{str(path.parent)!r} is not a finished run: `circuitkit discover` runs still, or was interrupted.",
                how_to_resume(path.parent),
            )
        raise UsageError(
            f"{str(path.parent)!r} is not a finished run: it has no {path.name}.",
            "Give a folder that `circuitkit discover --out` or `result.save` wrote.",
        )
    found = read_json(path)
    if isinstance(found.get("version"), bool) or found.get("version") != VERSION:
        raise CircuitKitError(
            f"{path} is not a result of version {VERSION}.", "Read it with the version of circuitkit that wrote it."
        )
    return found
