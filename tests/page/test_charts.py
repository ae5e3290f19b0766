"""Charts show the figures of the rows, as strict JSON, for every state of a comparison."""

import json
import math
from dataclasses import replace
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
import pytest
import torch
from support.page_rows import SIZES, make_content, make_curve, make_row

from circuitkit.circuit.circuit import Circuit
from circuitkit.circuit.graph import EdgeGraph
from circuitkit.errors import UsageError
from circuitkit.evaluation.evaluation import Evaluation, Measured, Point
from circuitkit.evaluation.intervals import Figure
from circuitkit.page.agreement_chart import mean_jaccard, order_by_similarity
from circuitkit.page.chart_tables import pareto_front, pick_size, round_figure, say_same
from circuitkit.page.charts import Chart, chart_config, make_charts
from circuitkit.page.run_charts import Run, read_history, template_items
from circuitkit.run.result import Result

RISING = [0.0, 0.1, 0.5, 0.9, 1.0]
HOSTILE = ["<script>alert(1)</script>", "[red]x[/]", "=1+1", "a.b[0]", "${x}", "datum.edges", "a\nb", '"', "\u202e"]


def chart_of(charts: list[Chart], start: str) -> Chart:
    return next(chart for chart in charts if chart.id.startswith(start))


def data_of(charts: list[Chart], start: str, name: str) -> list[dict[str, Any]]:
    items: list[dict[str, Any]] = chart_of(charts, start).spec["datasets"][name]
    return items


def own_row(strategy: str, value: float, edges: int = 40, **known: Any) -> dict[str, Any]:
    (row,) = make_curve(strategy, [value], ranking="own", operating_point="threshold 0.1", **known)
    return row | {"fraction": 0.15, "edges": edges, "edges_asked": edges, "cmd": None}


def test_curves_show_the_rows() -> None:
    rows = make_curve("eap", [0.0, 0.123456, 0.5, 0.9, 1.0]) + make_curve("random control", [0.0] * 4 + [1.0])
    charts = make_charts(make_content(rows))
    shown = {(item["method"], item["asked"]): item for item in data_of(charts, "curves", "curves")}
    assert len(shown) == len(rows)
    for row in rows:
        item = shown[row["strategy"], row["edges_asked"]]
        assert item["edges"] == row["edges"]
        assert item["control"] == (row["strategy"] == "random control")
        names = {"test": "", "low": "_low", "high": "_high"}
        assert {name: item[name] for name in names} == {
            name: pytest.approx(row[f"faithfulness_test{end}"], rel=1e-3) for name, end in names.items()
        }
        assert item["train"] == pytest.approx(row["faithfulness_train"], rel=1e-3)


def test_curves_are_means_over_seeds() -> None:
    by_seed = {0: [0.0, 0.1, 0.4, 0.8, 1.0], 1: [0.0, 0.3, 0.6, 0.7, 1.0]}
    rows = [row for seed, values in by_seed.items() for row in make_curve("eap", values, seed=seed)]
    items = data_of(make_charts(make_content(rows)), "curves", "curves")
    assert [item["test"] for item in items] == [
        pytest.approx(mean(pair)) for pair in zip(*by_seed.values(), strict=True)
    ]
    # The same prompts: the error is shared, and as wide as each seed's
    assert [item["high"] - item["test"] for item in items] == [pytest.approx(0.1, abs=1e-3)] * 5


def test_own_circuits_are_points_with_their_interval() -> None:
    rows = [*make_curve("acdc", RISING), own_row("acdc", 0.84)]
    charts = make_charts(make_content(rows))
    (item,) = data_of(charts, "curves", "own")
    assert (item["edges"], item["test"], item["low"], item["high"]) == (40, 0.84, 0.74, 0.94)
    assert chart_of(charts, "curves").alternative == (
        "acdc needs the fewest edges for a held-out faithfulness from 0.8 to 1.2: 0.84 [0.74, 0.94] with 40 edges."
    )
    (cost,) = data_of(charts, "time", "items")
    assert (cost["edges"], cost["wall_s"], cost["point"]) == (40, 10.0, "threshold 0.1")


@pytest.mark.parametrize(
    ("values", "wanted"),
    [
        ([0.1, 0.7, 0.85, 0.9], 2),  # the first that is faithful
        ([0.1, 0.7, 1.9], 1),  # far beyond 1 is not faithful
        ([0.1, 0.2, 0.3], 2),  # none is: the closest to 1
        ([None, None, 0.3], 2),
        ([], None),
        ([None], None),
    ],
)
def test_the_size_of_a_ranking_is_chosen_on_train(values: list[float | None], wanted: int | None) -> None:
    items = [{"train": value, "test": -9.0, "all": False} for value in values]
    full = {"train": 1.0, "test": 1.0, "all": True}
    assert pick_size([*items, full]) == ([] if wanted is None else [wanted])


def test_the_front_is_those_that_no_other_beats() -> None:
    generator = np.random.default_rng(0)
    for _ in range(50):
        drawn = generator.integers(0, 8, (12, 2))
        items = [{"cost": int(cost), "test": float(value) / 4 + 0.1} for cost, value in drawn]
        near = {(item["cost"], abs(1 - item["test"])) for item in items if abs(1 - item["test"]) < 1}
        beaten = {one for one in near for other in near if other != one and other[0] <= one[0] and other[1] <= one[1]}
        found = [(item["cost"], abs(1 - item["test"])) for item in pareto_front(items, "cost")]
        assert found == sorted(near - beaten)


def test_a_control_is_gray_and_a_strategy_has_one_color_in_all_charts() -> None:
    strategies = ["eap", "chance", "acdc"]
    rows = [row for name in strategies for row in make_curve(name, RISING)]
    content = make_content([*rows, own_row("acdc", 0.5)], controls=["chance"])
    colors: dict[str, set[str]] = {}
    for chart in make_charts(content):
        for layer in chart.spec["layer"]:
            if scale := layer["encoding"].get("color", {}).get("scale"):
                for name, color in zip(scale["domain"], scale["range"], strict=True):
                    colors.setdefault(name, set()).add(color)
    assert colors.keys() == set(strategies)
    assert [len(found) for found in colors.values()] == [1] * 3
    assert colors["chance"] == {"#7f7f7f"}


def test_many_methods_have_a_chart_per_precision() -> None:
    precisions, strategies = ["full", "int8", "nf4"], ["eap", "eap_ig", "acdc"]
    rows = [row for name in strategies for one in precisions for row in make_curve(name, RISING, precision=one)]
    charts = make_charts(make_content(rows))
    curves = [chart for chart in charts if chart.id.startswith("curves")]
    assert [chart.title.rpartition(", precision ")[2] for chart in curves] == precisions
    assert {item["method"] for item in data_of(curves, "curves-1", "curves")} == set(strategies)
    assert {item["method"] for item in data_of(charts, "time", "items")} == {
        f"{name} ({one})" for name in strategies for one in precisions
    }
    assert "eap, eap_ig and acdc coincide." in curves[0].caption


def test_of_very_many_methods_the_best_are_shown() -> None:
    rows = [row for number in range(15) for row in make_curve(f"m{number}", [value * number / 15 for value in RISING])]
    chart = chart_of(make_charts(make_content(rows)), "curves")
    assert {item["method"] for item in chart.spec["datasets"]["curves"]} == {f"m{number}" for number in range(3, 15)}
    assert "3 more methods, with larger CMD, are in results.csv." in chart.caption


def test_what_lies_beyond_the_axis_is_named() -> None:
    chart = chart_of(make_charts(make_content(make_curve("wild", [0.0, 0.1, 5.4, 2.0, 1.0]))), "curves")
    assert "Beyond the axis, drawn at its edge: wild (up to 5.40)." in chart.caption


def unknown(row: dict[str, Any], *names: str) -> dict[str, Any]:
    return row | dict.fromkeys(names)


@pytest.mark.parametrize(
    ("rows", "kinds"),
    [
        ([], set()),
        ([make_row(strategy="eap", error="it broke")], set()),
        (make_curve("eap", RISING), {"curves", "time", "memory"}),
        (make_curve("eap", RISING)[2:3], {"curves", "time", "memory"}),  # one size
        (make_curve("eap", RISING)[-1:], {"curves"}),  # the full model
        (make_curve("eap", RISING)[:1], {"curves", "time", "memory"}),  # no edges
        (make_curve("eap", RISING, wall_s=None), {"curves", "memory"}),
        (make_curve("eap", RISING, wall_s=math.nan, peak_mb=math.inf), {"curves"}),
        ([own_row("acdc", 0.5)], {"curves", "time", "memory"}),
        ([unknown(row, "faithfulness_test_low", "faithfulness_test_high") for row in make_curve("eap", RISING)],
         {"curves", "time", "memory"}),
        ([unknown(row, "faithfulness_train") for row in make_curve("eap", RISING)], {"curves"}),
        ([unknown(row, "faithfulness_test") for row in make_curve("eap", RISING)], set()),
        ([row for name in ("random control",) for row in make_curve(name, RISING)], {"curves"}),
        ([*make_curve("eap", RISING), make_row(strategy="acdc", error="it broke")], {"curves", "time", "memory"}),
    ],
)  # fmt: skip
def test_every_state_has_its_charts(rows: list[dict[str, Any]], kinds: set[str]) -> None:
    charts = make_charts(make_content(rows))
    assert {chart.id.rpartition("-")[0] for chart in charts} == kinds
    for chart in charts:
        json.dumps(chart.spec, allow_nan=False)
        assert chart.title
        assert chart.alternative.endswith(".")
        assert chart.caption.endswith(".")
        assert chart.spec["description"] == chart.alternative


@pytest.mark.parametrize("label", HOSTILE)
def test_labels_remain_data(label: str) -> None:
    names = dict.fromkeys(("model", "task", "objective", "precision"), label)
    rows = [*make_curve(label, RISING, **names), own_row(label, 0.5, **names)]
    agreement = [pair("a", 0, label, 0, 0.5, **dict.fromkeys(("model", "task", "objective"), label))]
    charts = make_charts(make_content(rows, agreement))
    assert {chart.id.rpartition("-")[0] for chart in charts} == {"curves", "time", "memory", "agreement"}
    plain = make_charts(make_content(make_curve("eap", RISING), []))

    def expressions(value: Any) -> set[str]:
        """Return all texts that Vega evaluates."""
        if isinstance(value, list):
            return set().union(*map(expressions, value))
        if not isinstance(value, dict):
            return set()
        own = {value[name] for name in ("expr", "test", "filter", "calculate") if isinstance(value.get(name), str)}
        return own.union(*(expressions(found) for name, found in value.items() if name != "datasets"))

    assert not any(label in text for chart in charts for text in expressions(chart.spec) if label != "datum.edges")
    assert expressions(chart_of(plain, "curves").spec) == expressions(chart_of(charts, "curves").spec)


def pair(one: str, seed: int, other: str, other_seed: int, jaccard: float | None, **known: Any) -> dict[str, Any]:
    place = {"model": "toy", "task": "ioi", "objective": "logit_difference"}
    sides = {"strategy_a": one, "strategy_b": other, "seed_a": seed, "seed_b": other_seed}
    precisions = {"precision_a": "full", "precision_b": "full"}
    figures_of = {
        "edges": 13,
        "jaccard": jaccard,
        "jaccard_chance": 0.025,
        "jaccard_own": None,
        "rank_correlation": 0.1,
    }
    return place | sides | precisions | figures_of | known


def test_agreement_is_averaged_over_equal_seeds() -> None:
    rows = [
        *(pair("x", 0, "y", 0, 0.2), pair("x", 1, "y", 1, 0.4), pair("y", 1, "x", 0, 0.9)),
        *(pair("x", 0, "x", 1, 0.7), pair("x", 0, "z", 0, None), pair("y", 0, "z", 1, 0.5)),
    ]
    methods, similarity = mean_jaccard(rows)
    assert methods == [("x", "full"), ("y", "full"), ("z", "full")]
    wanted = [[0.7, 0.3, math.nan], [0.3, math.nan, 0.5], [math.nan, 0.5, math.nan]]
    np.testing.assert_allclose(similarity, wanted)


def test_similar_methods_are_neighbors() -> None:
    groups = np.array([0, 1, 0, 1, 0])
    similarity = np.where(groups[:, None] == groups, 0.9, 0.1)
    similarity[0, 1] = similarity[1, 0] = np.nan
    order = groups[order_by_similarity(similarity)]
    assert np.count_nonzero(np.diff(order)) == 1


def test_the_heat_map_has_every_pair_and_says_what_chance_is() -> None:
    agreement = [pair("x", 0, "y", 0, 0.2), pair("x", 0, "z", 0, 0.8), pair("y", 0, "z", 0, 0.1)]
    agreement += [pair("x", 0, "random control", 0, 0.9)]
    charts = make_charts(make_content(make_curve("x", RISING), agreement))
    items = {(item["one"], item["other"]): item["jaccard"] for item in data_of(charts, "agreement", "pairs")}
    assert items == {
        **dict.fromkeys([("x", "y"), ("y", "x")], 0.2),
        **dict.fromkeys([("x", "z"), ("z", "x")], 0.8),
        **dict.fromkeys([("y", "z"), ("z", "y")], 0.1),
    }
    chart = chart_of(charts, "agreement")
    assert "Two random choices share 0.025." in chart.caption
    assert chart.alternative.startswith(("x and z", "z and x"))


@pytest.mark.parametrize(
    ("rows", "wanted"),
    [
        ([], []),
        ([{"tested": "3", "kept": "1"}, {"tested": "5", "kept": "1"}], [[(3, 1), (5, 1)]]),
        ([{"tested": 3, "kept": 1}, {"tested": 2, "kept": 0}], [[(3, 1)], [(2, 0)]]),  # the next threshold
        ([{"tested": "", "kept": "1"}, {"kept": 2}, {"tested": 1, "kept": None}], []),
        ([{"tested": "nan", "kept": "1"}, {"tested": "x", "kept": "1"}], []),
    ],
)
def test_the_history_is_read(rows: list[dict[str, Any]], wanted: list[Any]) -> None:
    assert read_history(rows, "tested", "kept") == wanted


GRAPH = EdgeGraph(layers=1, heads=2, kv_heads=2, mlps=True)


def make_result(history: list[dict[str, Any]] | None = None, **evaluations: list[Evaluation]) -> Result:
    circuit = Circuit.from_scores(GRAPH, torch.ones(len(GRAPH), dtype=torch.float64)).top(5)
    return Result([circuit], evaluations, {}, {}, {}, [], history or [])


def make_evaluation(split: str = "test") -> Evaluation:
    values = np.array([[-1.0, -1.0, -3.0, -4.0], [-4.0] * 4, [0.0] * 4])
    measured = Measured(Figure(-2.25, None, None), Figure(0.5625, None, None))
    ends = [{"logit_difference": Figure(value, None, None)} for value in (-4.0, 0.0)]
    return Evaluation(
        split=split, prompts=4, points=[Point("own", 0.1, 5, 5, {"logit_difference": measured})], full=ends[0],
        ablated=ends[1], areas={}, identity_error=0.0, seconds=0.0, templates=("b", "b", "a", "a"),
        values={"logit_difference": values},
    )  # fmt: skip


def test_a_search_is_drawn() -> None:
    rows = make_curve("acdc", RISING)
    history = [{"edges": 3 * step, "tested": 2 * step, "kept": step} for step in range(1, 200)]
    content = make_content(rows, results={rows[0]["folder"]: make_result(history)})
    items = data_of(make_charts(content), "search", "history")
    found = [(item["tested"], item["kept"]) for item in items]
    assert len(found) < 100
    assert found[0] == (2, 1)
    assert found[-1] == (398, 199)
    assert all(tested == 2 * kept for tested, kept in found)


def test_a_training_is_drawn_without_an_evaluation() -> None:
    rows = [make_row(strategy="edge_pruning")]
    history = [{"steps": str(step), "objective": str(-step), "sparsity": str(step / 10)} for step in range(10)]
    content = make_content(rows, results={rows[0]["folder"]: make_result(history)})
    charts = make_charts(content)
    assert [chart.id for chart in charts] == ["objective-1", "sparsity-1"]
    assert [item["objective"] for item in data_of(charts, "objective", "history")] == [-float(x) for x in range(10)]


def test_only_trainings_with_a_penalty_are_said_to_have_one() -> None:
    history = [{"steps": step, "objective": -step, "sparsity": step / 10} for step in range(10)]
    penalized = [{**row, "penalty": "0.5"} for row in history]
    results = {"annealed_pruning": make_result(history), "edge_pruning": make_result(penalized)}

    def caption(*names: str) -> str:
        rows = [make_row(strategy=name) for name in names]
        content = make_content(rows, results={row["folder"]: results[row["strategy"]] for row in rows})
        return chart_of(make_charts(content), "objective").caption

    assert "sampled" not in caption("annealed_pruning")
    assert "penalty" not in caption("annealed_pruning")
    assert "The line is noisy, since masks are sampled, and rises as the penalty" in caption("edge_pruning")
    assert "The line of edge_pruning is noisy" in caption("annealed_pruning", "edge_pruning")


def test_a_reference_is_compared_with_every_run(tmp_path: Path) -> None:
    scores = torch.arange(len(GRAPH), 0, -1, dtype=torch.float64)
    right = Circuit.from_scores(GRAPH, scores).top(4)
    right.save(tmp_path / "published")
    rows = [row for name in ("good", "bad") for row in make_curve(name, RISING)]
    results = {
        row["folder"]: replace(make_result(), circuits=[Circuit.from_scores(GRAPH, sign * scores + len(GRAPH))])
        for row, sign in zip(rows[:: len(RISING)], (1, -1), strict=True)
    }
    content = make_content(rows, results=results)
    assert not [chart for chart in make_charts(content) if chart.id.startswith("roc")]
    chart = chart_of(make_charts(content, tmp_path / "published"), "roc")
    assert chart.alternative == "Of 2 methods, good finds the reference's edges best: area under the ROC curve 1.000."
    assert "how many of the first 4 edges are the reference's: good 1.000, 100%; bad 0.000, 0%." in chart.caption
    points = {name: [] for name in ("good", "bad")}
    for item in chart.spec["datasets"]["curves"]:
        points[item["method"]].append((item["false"], item["true"]))
    assert {name: (found[0], found[-1]) for name, found in points.items()} == dict.fromkeys(points, ((0, 0), (1, 1)))
    assert (0, 1) in points["good"]
    assert (1, 0) in points["bad"]
    with pytest.raises(UsageError, match="There is no"):
        make_charts(content, tmp_path / "nowhere")


def test_templates_show_the_evaluation_of_the_circuit() -> None:
    result = make_result(train=[make_evaluation("train")], test=[make_evaluation()])
    found = {item["template"]: item["test"] for item in template_items(Run("acdc", "acdc", "full", result))}
    assert found == {"a": 0.875, "b": 0.25}  # by hand: means of 3/4 and 4/4, and of 1/4 and 1/4
    rows = make_curve("acdc", RISING)
    chart = chart_of(make_charts(make_content(rows, results={rows[0]["folder"]: result})), "templates")
    assert chart.alternative == (
        "The lowest held-out faithfulness on one template is 0.25: acdc on template b, with 2 prompts."
    )


@pytest.mark.parametrize(
    ("value", "wanted"), [(None, None), (0.123456, 0.1235), (12345.6, 12350.0), (-0.0, 0.0), (math.nan, None)]
)
def test_figures_have_4_digits(value: float | None, wanted: float | None) -> None:
    found = round_figure(value)
    assert found == wanted
    assert found is None or math.copysign(1, found) == 1


def test_methods_that_coincide_are_named() -> None:
    def line(method: str, *values: float) -> list[dict[str, Any]]:
        return [{"method": method, "x": x, "y": y} for x, y in enumerate(values)]

    items = [*line("a", 0.1, 0.5), *line("b", 0.1, 0.6), *line("c", 0.105, 0.5), *line("d", 0.1)]
    assert say_same(items, "x", "y", 0.01) == ["a and c coincide."]


def test_a_thousand_cells_are_small() -> None:
    places = [{"model": f"model {m}", "task": f"task {t}"} for m in range(5) for t in range(4)]
    rows = [
        row
        for place in places
        for strategy in range(5)
        for precision in ("full", "int8")
        for seed in range(5)
        for row in [
            *make_curve(f"strategy {strategy}", RISING, precision=precision, seed=seed, **place),
            own_row(f"strategy {strategy}", 0.5, precision=precision, seed=seed, **place),
        ]
    ]
    names = [f"strategy {number}" for number in range(5)]
    agreement = [pair(one, 0, other, 0, 0.5, **place) for place in places for one in names for other in names]
    charts = make_charts(make_content(rows, agreement))
    assert sum(len(json.dumps(chart.spec)) for chart in charts) < 700_000
    last = [chart for chart in charts if chart.id.startswith("curves")][-1]
    assert "more charts of this kind are left out" in last.caption


def test_both_configurations_have_the_same_parts() -> None:
    def names(value: Any) -> Any:
        return {key: names(found) for key, found in value.items()} if isinstance(value, dict) else None

    light, dark = chart_config(dark=False), chart_config(dark=True)
    assert names(light) == names(dark)
    assert light["axis"]["labelColor"] != dark["axis"]["labelColor"]


def test_sizes_of_the_made_up_rows_are_those_of_the_charts() -> None:
    items = data_of(make_charts(make_content(make_curve("eap", RISING))), "curves", "curves")
    assert [item["edges"] for item in items] == list(SIZES.values())
