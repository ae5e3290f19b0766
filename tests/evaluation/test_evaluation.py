"""Evaluations by slow definitions, their files, and what is noted of them."""

import importlib
import io
import itertools
import json
import pkgutil
from dataclasses import is_dataclass, replace
from functools import cache
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from support.prepared import slow_final
from support.tiny import random_batch, tiny

import circuitkit
from circuitkit.circuit.circuit import Circuit
from circuitkit.config import specs
from circuitkit.data.objectives import KLDivergence, LogitDifference
from circuitkit.data.prompt_batch import PromptBatch
from circuitkit.engine.ablation import Resample
from circuitkit.engine.prepared_batch import prepare_batches
from circuitkit.errors import UsageError
from circuitkit.evaluation import evaluator, intervals
from circuitkit.evaluation.evaluation import Evaluation, Measured, Point
from circuitkit.evaluation.evaluator import Evaluator, check_curves, evaluate
from circuitkit.evaluation.generalization import GAP, generalization_notes
from circuitkit.evaluation.intervals import Figure
from circuitkit.evaluation.prompt_table import PromptValues, write_prompt_table
from circuitkit.evaluation.prompts import prompt_notes
from circuitkit.models.circuit_model import CircuitModel

LENGTHS = (5, 7, 6, 5, 8, 6, 7, 5)
TEMPLATES = tuple("abcabbaa")


@cache
def toy() -> CircuitModel:
    return CircuitModel.from_pretrained("toy")


@cache
def on_toy(split: str = "test", examples: int = 24) -> Evaluation:
    """EAP's best 60 edges of the toy model, evaluated on IOI."""
    scores = torch.randn(len(toy().graph), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    circuit = Circuit.from_scores(toy().graph, scores).top(120)
    return evaluate(toy(), circuit, "ioi", sizes=[0.1, 0.5, 1.0], examples=examples, split=split, minimality=2)  # type: ignore[arg-type]


def make_evaluator(objective: Any = LogitDifference, batch: PromptBatch | None = None, size: int = 8) -> Evaluator:
    model, batch = tiny("gpt2"), batch or random_batch(lengths=LENGTHS)
    ablation = Resample()
    ablation.fit(model, [batch])
    return Evaluator(prepare_batches(model, batch.split(size), objective(), ablation), "test")


def again(evaluation: Evaluation) -> Evaluation:
    described = json.loads(json.dumps(evaluation.to_dict(), allow_nan=False))
    file = PromptValues(write_prompt_table({evaluation.split: [evaluation]}))
    circuits = len(described["points"]) + len(described["minimality"])
    found = Evaluation.from_dict(described, file.take(list(described["full"]), circuits, described["prompts"]))
    file.finish()
    return found


def test_its_time_is_that_of_the_circuits_and_at_first_of_the_captures(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = itertools.count(100.0)
    monkeypatch.setattr(evaluator, "time", SimpleNamespace(perf_counter=lambda: next(clock)))
    one = make_evaluator()  # looks at the clock before and after the captures
    circuit = Circuit.from_scores(one.graph, torch.arange(len(one.graph), dtype=torch.float64))
    assert [one.evaluate(circuit, [0.5]).seconds for _ in range(2)] == [2, 1]


def test_a_note_says_of_which_splits_it_is_true() -> None:
    batches = {split: random_batch(seed) for seed, split in enumerate(("train", "validation", "test"))}
    batches["train"] = replace(batches["train"], notes=("Of all.", "Of two.", "Of one."))
    batches["validation"] = replace(batches["validation"], notes=("Of all.", "Of two."))
    batches["test"] = replace(batches["test"], notes=("Of all.",))
    assert prompt_notes(batches) == [
        "Of all.",
        "In the train and validation split: Of two.",
        "In the train split: Of one.",
    ]


@pytest.mark.parametrize("examples", [24, 1])
def test_an_evaluation_comes_back_from_its_files_bit_by_bit(examples: int) -> None:
    one = on_toy(examples=examples)
    other = again(one)
    assert other == one
    assert other.to_dict() == one.to_dict()
    assert other.points == one.points
    assert other.seconds == one.seconds
    for name, values in one.values.items():
        assert other.values[name].dtype == np.float64
        assert other.values[name].tobytes() == values.tobytes()
        assert np.isfinite(values).all()
        assert values.shape == (len(one.points) + len(one.minimality) + 2, one.prompts)


@pytest.mark.parametrize(("more", "prompts"), [(1, 24), (0, 25), (0, 0)])
def test_a_table_with_fewer_values_than_wanted_is_refused(more: int, prompts: int) -> None:
    one = on_toy()
    file = PromptValues(write_prompt_table({"test": [one]}))
    with pytest.raises(ValueError, match="fewer values than the evaluations"):
        file.take(list(one.full), len(one.points) + len(one.minimality) + more, prompts)


def test_the_table_has_the_value_of_every_prompt() -> None:
    one = on_toy()
    table = pd.read_parquet(io.BytesIO(write_prompt_table({"test": [one]})))
    for point, measure in itertools.product((*one.points, *one.minimality, "full", "ablated"), one.full):
        ranking = point.ranking if isinstance(point, Point) else getattr(point, "edge", point)
        ranking = ranking if isinstance(point, Point | str) else f"without {ranking}"
        rows = table[(table.ranking == ranking) & (table.measure == measure)]
        if isinstance(point, Point):
            rows = rows[rows.fraction == point.fraction]
            assert set(rows.edges) == {point.edges}
        assert rows.value.tolist() == one.per_prompt(point, measure).tolist()
        assert rows.prompt.tolist() == list(range(one.prompts))
        assert tuple(rows.template) == one.templates


def _other_value(evaluation: Evaluation) -> Evaluation:
    values = {name: rows.copy() for name, rows in evaluation.values.items()}
    values["kl"][0, 0] += 1e-9
    return replace(evaluation, values=values)


@pytest.mark.parametrize(
    ("change", "same"),
    [
        (lambda one: replace(one, seconds=one.seconds + 1), True),
        (lambda one: replace(one, split="train"), False),
        (lambda one: replace(one, notes=["other"]), False),
        (lambda one: replace(one, points=one.points[:-1]), False),
        (lambda one: replace(one, minimality=one.minimality[:-1]), False),
        (_other_value, False),
        (lambda one: replace(one, values={}), False),
        (lambda one: replace(one, templates=()), False),
    ],
)
def test_evaluations_are_equal_if_everything_but_the_time_is(change: Any, same: bool) -> None:
    one, other = on_toy(), change(on_toy())
    assert (one == other) is same
    assert (other == one) is same


@pytest.mark.parametrize("key", ["split", "points", "minimality", "full", "areas", "templates", "identity_error"])
def test_a_described_evaluation_without_an_entry_is_refused(key: str) -> None:
    found = on_toy().to_dict()
    del found[key]
    with pytest.raises(ValueError, match=key):
        Evaluation.from_dict(found, on_toy().values)


def test_values_of_other_points_and_measures_are_refused() -> None:
    one = on_toy()
    for point, measure in ((one.points[0], "nonsense"), ("half", "kl"), (replace(one.points[0], edges=1), "kl")):
        with pytest.raises(UsageError, match="has no values of"):
            one.per_prompt(point, measure)  # type: ignore[arg-type]


def test_figures_are_those_of_the_values_of_every_prompt() -> None:
    one = on_toy()
    assert list(one.full) == ["logit_difference", "kl", "accuracy"]
    for name in one.full:
        ends = [one.per_prompt(end, name) for end in ("full", "ablated")]
        for point in one.points:
            values, found = one.per_prompt(point, name), point.measures[name]
            if name == "accuracy":
                assert found == Measured(intervals.proportion_figure(values))
                continue
            assert found.value == pytest.approx(intervals.mean_figures(values).figure(), abs=1e-12)
            wanted = intervals.faithfulness_figures(values, *ends).figure()
            assert found.faithfulness == pytest.approx(wanted, abs=1e-12)
            by_hand = (values.mean() - ends[1].mean()) / (ends[0].mean() - ends[1].mean())
            assert found.faithfulness is not None
            assert found.faithfulness.value == pytest.approx(by_hand)
        for end, values in zip((one.full, one.ablated), ends, strict=True):
            assert end[name].value == pytest.approx(values.mean())


def test_measures_are_those_of_the_logits_by_plain_loops() -> None:
    """Of a masked run by its equation, edge by edge; two answers, of which one prompt lacks one."""
    model, batch = tiny("gpt2"), random_batch(lengths=LENGTHS[:3], answers=2)
    ablation = Resample()
    ablation.fit(model, [batch])
    (prepared,) = prepare_batches(model, [batch], LogitDifference(), ablation)
    kept = torch.rand(len(model.graph), generator=torch.Generator().manual_seed(3), dtype=torch.float64) < 0.7
    found = Evaluator([prepared], "test").measure(kept)
    with torch.no_grad():
        logits = model.logits(slow_final(prepared, kept.double())).all()
        full = model.logits(model.final_stream(batch)).all()
    assert set(found) == {"logit_difference", "kl", "accuracy"}
    for prompt in range(len(batch)):
        x, p, q = logits[prompt, 0].tolist(), full[prompt, 0].softmax(-1), logits[prompt, 0].softmax(-1)
        right = [x[token] for token in batch.answers[prompt, 0].tolist()]
        wrong = [x[token] for token in batch.wrong_answers[prompt, 0].tolist()]
        assert found["logit_difference"][prompt] == pytest.approx(sum(wrong) / 2 - sum(right) / 2, abs=1e-10)
        assert found["kl"][prompt] == pytest.approx(float((p * (p.log() - q.log())).sum()), abs=1e-10)
        assert found["accuracy"][prompt] == float(max(right) > max(wrong))


@pytest.mark.parametrize("name", ["logit_difference", "kl", "answer_log_probability", "probability_difference"])
def test_every_objective_is_measured_as_where_it_is_alone(name: str) -> None:
    """The searched one comes first; in batches of other sizes too."""
    objective = type(specs.make("objectives", name))
    one = make_evaluator(objective, size=3)
    assert list(one.full) == list(dict.fromkeys([name, "logit_difference", "kl", "accuracy"]))
    kept = torch.rand(len(one.graph), generator=torch.Generator().manual_seed(0), dtype=torch.float64) < 0.8
    for other in (LogitDifference, KLDivergence):
        wanted = make_evaluator(other)
        for measure in ("logit_difference", "kl", "accuracy"):
            assert one.measure(kept)[measure] == pytest.approx(wanted.measure(kept)[measure], abs=1e-12)
    circuit = Circuit(one.graph, kept.double(), kept, torch.zeros(len(kept), dtype=torch.int8))
    found = one.evaluate(circuit, [])
    assert found.objective == name
    assert found.curve("own")[0].value == pytest.approx(one.measure(kept)[name].mean())


def test_prompts_without_answers_have_kl_alone() -> None:
    batch = PromptBatch.from_ids([[1, 2, 3], [4, 5, 6]], [[1, 7, 3], [4, 8, 6]], [[[]], [[]]])
    assert list(make_evaluator(KLDivergence, batch).full) == ["kl"]
    with_answers = PromptBatch.from_ids([[1, 2, 3], [4, 5, 6]], [[1, 7, 3], [4, 8, 6]], [[[1]], [[2]]])
    assert list(make_evaluator(KLDivergence, with_answers).full) == ["kl", "accuracy"]


def test_figures_of_each_template_are_those_of_its_prompts_alone() -> None:
    batch = random_batch(lengths=LENGTHS)
    one = make_evaluator(KLDivergence, replace(batch, templates=TEMPLATES), size=3)
    circuit = Circuit.from_scores(one.graph, torch.arange(len(one.graph), dtype=torch.float64)).top(50)
    found = one.evaluate(circuit, [])
    assert found.templates == TEMPLATES
    (own,) = found.curve("own")
    for measure in found.full:
        by_template = found.by_template(own, measure)
        assert list(by_template) == ["a", "b", "c"]
        for template, measured in by_template.items():
            rows = [row for row, label in enumerate(TEMPLATES) if label == template]
            values, full, ablated = (
                float(np.mean([found.per_prompt(which, measure)[row] for row in rows]))
                for which in (own, "full", "ablated")
            )
            assert measured.value.value == pytest.approx(values)
            if measure == "accuracy":
                assert measured.faithfulness is None
                continue
            assert measured.faithfulness is not None
            assert measured.faithfulness.value == pytest.approx((values - ablated) / (full - ablated))
    assert replace(found, templates=()).by_template(own) == {}


def test_ioi_tells_the_templates() -> None:
    one = on_toy()
    assert len(one.templates) == one.prompts
    assert set(one.templates) <= {str(number) for number in range(15)}
    assert len(set(one.templates)) > 5
    (own,) = one.curve("own")
    assert set(one.by_template(own)) == set(one.templates)


def with_faithfulness(split: str, **faithfulness: float | None) -> Evaluation:
    points = [
        Point(ranking.rstrip("_"), 0.1, 10, 10, {"kl": Measured(Figure(0.0, None, None), Figure(value, None, None))})  # type: ignore[arg-type]
        for ranking, value in faithfulness.items()
    ]
    ends = ({"kl": Figure(value, None, None)} for value in (0.0, 1.0))
    return Evaluation(split, 8, points, *ends, {}, 0.0, 0.0)


@pytest.mark.parametrize(
    ("train", "test", "said"),
    [
        ({"own": 0.9}, {"own": 0.9 - GAP + 1e-9}, ""),
        ({"own": 0.9}, {"own": 0.9 - GAP - 1e-9}, "Faithfulness of the circuit in kl is 0.90"),
        ({"own": 0.5}, {"own": 0.9}, ""),  # better on held-out prompts
        ({"own": 0.9}, {"own": None}, ""),
        ({"own": 0.9, "absolute": 0.9}, {"own": 0.9, "absolute": 0.1}, ""),  # the circuit's own edges count
        ({"absolute": 0.9}, {"absolute": 0.1}, "Faithfulness of the top 10 edges in kl is 0.90"),
        ({"absolute": 0.6, "absolute_": 0.9}, {"absolute": 0.4, "absolute_": 0.2}, "is 0.90 on the prompts"),
        ({"random": 0.9, "complement": 0.9}, {"random": 0.1, "complement": 0.1}, ""),
    ],
)
def test_a_gap_between_train_and_test_is_noted(train: dict, test: dict, said: str) -> None:
    found = {"train": [with_faithfulness("train", **train)], "test": [with_faithfulness("test", **test)]}
    notes = generalization_notes(found)
    assert len(notes) == bool(said)
    assert said in "".join(notes)
    assert generalization_notes({"test": found["test"]}) == generalization_notes({}) == []


CLEAR = Figure(0.9, 0.85, 0.95), Figure(0.3, 0.2, 0.4)


@pytest.mark.parametrize(("drawn", "fits"), [(None, False), (8, False), (9, True), (4000, True)])
@pytest.mark.parametrize("clear", [True, False])
def test_more_examples_are_not_advised_to_who_drew_more_anyway(drawn: int | None, fits: bool, clear: bool) -> None:
    """Unless these prompts are too few to measure the gap."""
    found = {}
    for split, figure in zip(("train", "test"), CLEAR, strict=True):
        evaluation = with_faithfulness(split, own=0.0)
        measured = figure if clear else figure._replace(low=0.0, high=1.0)
        point = replace(evaluation.points[0], measures={"kl": Measured(Figure(0.0, None, None), measured)})
        found[split] = [replace(evaluation, points=[point])]
    (note,) = generalization_notes(found, drawn)
    assert ("(examples)" in note) == (not clear or not fits)
    assert (f"found on {drawn or 0:,}, whatever examples says" in note) == (clear and fits)


def test_each_of_several_circuits_is_noted() -> None:
    train = [with_faithfulness("train", own=value) for value in (0.9, 0.9, 0.9)]
    test = [with_faithfulness("test", own=value) for value in (0.1, 0.9, 0.3)]
    notes = generalization_notes({"train": train, "test": test})
    assert [f"circuit {number}" in note for number, note in zip((1, 3), notes, strict=True)] == [True, True]


@pytest.mark.parametrize(
    ("rankings", "said"),
    [
        (["signed", "largest"], "no ranking 'largest'"),
        (["own"], "no ranking 'own'"),
        (["signed", "signed"], "not a list of different rankings"),
        ("signed", "not a list of different rankings"),
    ],
)
def test_rankings_are_checked(rankings: Any, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        check_curves([0.1], rankings)


def test_sizes_may_be_an_array() -> None:
    sizes = np.array([0.1, 0.5], dtype=np.float32)
    result = circuitkit.discover(toy(), "ioi", "random_edges", examples=4, sizes=sizes, splits=["test"])  # type: ignore[arg-type]
    found = again(result.evaluations["test"][0])
    assert [point.fraction for point in found.curve("signed")] == [float(size) for size in sizes]


@pytest.mark.parametrize(
    ("options", "splits"),
    [
        ({}, ["train", "test"]),
        ({"splits": ["test", "validation"]}, ["test", "validation"]),
        ({"splits": []}, []),
        ({"sizes": []}, []),
        ({"sizes": [0.2], "splits": ["validation"]}, ["validation"]),
    ],
)
def test_splits_and_sizes_are_the_users_choice(options: dict[str, Any], splits: list[str]) -> None:
    result = circuitkit.discover(toy(), "ioi", "eap", examples=6, **options)
    assert list(result.evaluations) == splits
    for split, (evaluation,) in result.evaluations.items():
        assert (evaluation.split, evaluation.prompts) == (split, 6)
        wanted = options.get("sizes") or [0.01, 0.05, 0.2]
        assert [point.fraction for point in evaluation.curve("absolute")] == wanted


@pytest.mark.parametrize(("splits", "found"), [(["train", "test"], ["train"]), (["test"], ["train"]), ([], [])])
def test_a_prompt_batch_has_the_train_split_alone(splits: Any, found: list[str]) -> None:
    result = circuitkit.discover(tiny("gpt2"), random_batch(), "eap", splits=splits)
    assert list(result.evaluations) == found


def test_an_evaluation_reports_how_far_it_is() -> None:
    told: list[tuple[int, int]] = []

    class Listener:
        def on_evaluation_progress(self, run: object, done: int, total: int) -> None:
            told.append((done, total))

    discoverer = circuitkit.Discoverer("cpu", callbacks=[Listener()])
    result = discoverer.run("toy", "ioi", "eap", examples=4, sizes=[0.1, 1.0], rankings=["absolute", "greedy"])
    assert told == [(done, 8) for done in range(1, 9)]
    assert {point.ranking for point in result.evaluations["train"][0].points} == {"absolute", "greedy"}


def test_what_was_measured_cannot_be_changed() -> None:
    files = [found.name for found in pkgutil.iter_modules(circuitkit.evaluation.__path__)]
    modules = [importlib.import_module(f"circuitkit.evaluation.{file}") for file in files]
    own = {found for module in modules for found in vars(module).values() if isinstance(found, type)}
    classes = [one for one in own if one.__module__.startswith("circuitkit.evaluation.") and is_dataclass(one)]
    assert len(classes) > 10
    assert all(one.__dataclass_params__.frozen for one in classes)  # type: ignore[attr-defined]
