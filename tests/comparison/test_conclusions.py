"""What a comparison says in words: which method is better, on the same prompts, and how far methods agree."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas
import pytest

from circuitkit.comparison.conclusions import AGREEMENT_COLUMNS, Finished, compare_precisions, compare_strategies
from circuitkit.comparison.grid import Grid
from circuitkit.comparison.runner import compare
from circuitkit.evaluation.intervals import PerPrompt, describe_difference, difference_figure
from circuitkit.run.result import Result

SIZES = [0.05, 0.2, 1.0]


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory) -> tuple[Grid, Path]:
    grid = Grid(
        models={"toy": "toy"},
        tasks={"ioi": "ioi"},
        strategies={"eap": "eap", "again": "eap", "acdc": "acdc"},
        seeds=[0, 1],
        examples=8,
        sizes=SIZES,
    )
    out = tmp_path_factory.mktemp("comparison") / "out"
    compare(grid, out)
    return grid, out


def finished(grid: Grid, out: Path) -> list[Finished]:
    rows = pandas.read_csv(out / "results.csv", keep_default_na=False)
    folders = {(row.strategy, row.seed): row.folder for row in rows.itertuples()}
    cells = [cell for cell in grid.cells if not cell.is_control]
    return [Finished.of(cell, Result.load(out / folders[cell.strategy, cell.seed])) for cell in cells]


def test_the_best_two_methods_are_compared_on_the_same_prompts(compared: tuple[Grid, Path]) -> None:
    found = finished(*compared)
    said = compare_strategies(found)
    assert [line.partition(":")[0] for line in said] == ["5%, 13 edges", "20%, 52 edges"]
    pooled = {}
    for method in ("eap", "acdc"):
        parts = []
        for one in (one for one in found if one.cell.strategy == method):
            (point,) = (point for point in one.evaluation.curve("absolute") if point.fraction == 0.05)
            parts.append([one.evaluation.per_prompt(which) for which in (point, "full", "ablated")])
        pooled[method] = PerPrompt(*([*one, *other] for one, other in zip(*parts, strict=True)))
    difference = difference_figure(pooled["acdc"], pooled["eap"])
    assert f"acdc (full) is better than eap (full), with 95% confidence (difference {difference.value:.2f}" in said[0]


def test_equal_methods_are_not_told_apart(compared: tuple[Grid, Path]) -> None:
    found = [one for one in finished(*compared) if one.cell.strategy != "acdc"]
    assert all("do equally well on 16 prompts" in line for line in compare_strategies(found))


def test_one_method_alone_is_not_compared(compared: tuple[Grid, Path]) -> None:
    assert compare_strategies([one for one in finished(*compared) if one.cell.strategy == "acdc"]) == []


def test_methods_without_a_common_seed_are_not_compared(compared: tuple[Grid, Path]) -> None:
    seeds = {"eap": 0, "acdc": 1}
    said = compare_strategies([one for one in finished(*compared) if seeds.get(one.cell.strategy) == one.cell.seed])
    assert len(said) == 2
    assert all("were measured on different prompts" in line for line in said)


def test_seeds_with_the_same_prompts_do_not_count_as_more_prompts(compared: tuple[Grid, Path]) -> None:
    found = [replace(one, prompts="the same") for one in finished(*compared)]
    said = compare_strategies([one for one in found if one.cell.strategy != "acdc"])
    assert all("do equally well on 8 prompts" in line for line in said)


def test_a_method_without_some_seed_takes_none_from_the_others(compared: tuple[Grid, Path]) -> None:
    found = [one for one in finished(*compared) if not (one.cell.strategy == "again" and one.cell.seed == 1)]
    (at_13, _) = compare_strategies(found)
    (of_all, _) = compare_strategies(finished(*compared))
    assert at_13 == of_all


def in_low_precision(one: Finished, like: Finished) -> Finished:
    """Return a cell as if its search had run in a low precision, with the figures of another cell."""
    config = {**one.cell.config, "precision": {"class_path": "some.LowPrecision"}}
    cell = replace(one.cell, precision="low", config=config)
    return replace(one, cell=cell, evaluation=like.evaluation)


def by_strategy(found: list[Finished], strategy: str) -> list[Finished]:
    return [one for one in found if one.cell.strategy == strategy]


def test_the_best_two_strategies_are_each_in_their_best_precision(compared: tuple[Grid, Path]) -> None:
    found = finished(*compared)
    eap, acdc = (by_strategy(found, name) for name in ("eap", "acdc"))
    better = [in_low_precision(one, other) for one, other in zip(eap, acdc, strict=True)]
    worse = [in_low_precision(one, other) for one, other in zip(acdc, eap, strict=True)]
    said = compare_strategies([*eap, *better, *worse, *acdc])
    assert [line.partition(": ")[2] for line in said] == [
        "eap (low) and acdc (full) do equally well on 16 prompts."
    ] * 2


def test_random_edges_take_no_part(compared: tuple[Grid, Path]) -> None:
    found = finished(*compared)
    spec = {"strategy": {"class_path": "circuitkit.strategies.random_edges.RandomEdges"}}
    random = [replace(one, cell=replace(one.cell, config={**one.cell.config, **spec})) for one in found[:2]]
    assert compare_strategies([*random, *by_strategy(found, "acdc")]) == []


def test_low_precision_is_compared_with_full_precision(compared: tuple[Grid, Path]) -> None:
    found = finished(*compared)
    eap, acdc = (by_strategy(found, name) for name in ("eap", "acdc"))
    assert compare_precisions(found) == []
    equal = [in_low_precision(one, one) for one in eap]
    assert compare_precisions(equal) == []
    (said,) = compare_precisions([*equal, *eap])
    assert said == "eap (low) does as well as eap (full) at every size, on each of 16 prompts."
    other = [in_low_precision(one, like) for one, like in zip(eap, acdc, strict=True)]
    (said,) = compare_precisions([*eap, *other])
    pooled = []
    for cells in (acdc, eap):
        parts = []
        for one in cells:
            (point,) = (point for point in one.evaluation.curve("absolute") if point.fraction == 0.05)
            parts.append([one.evaluation.per_prompt(which) for which in (point, "full", "ablated")])
        pooled.append(PerPrompt(*([*one, *other] for one, other in zip(*parts, strict=True))))
    difference = describe_difference(difference_figure(*pooled))
    assert said.startswith(f"eap (low) differs from eap (full) in faithfulness at 5% (by {difference})")
    (said,) = compare_precisions([other[0], eap[1]])
    assert said == "eap (low) and eap (full) were measured on different prompts, and are not compared."


def test_a_difference_that_the_prompts_do_not_show(compared: tuple[Grid, Path]) -> None:
    eap = by_strategy(finished(*compared), "eap")
    noisy = []
    for one in eap:
        values = one.evaluation.values["logit_difference"].copy()
        values[:-2] += 0.1 * np.random.default_rng(one.cell.seed).standard_normal(values[:-2].shape)
        evaluation = replace(one.evaluation, values={**one.evaluation.values, "logit_difference": values})
        noisy.append(in_low_precision(one, replace(one, evaluation=evaluation)))
    (said,) = compare_precisions([*eap, *noisy])
    assert said.startswith("16 prompts cannot tell eap (low) and eap (full) apart at any size; they differ most at ")


def test_agreement_of_every_two_cells_is_saved(compared: tuple[Grid, Path]) -> None:
    frame = pandas.read_csv(compared[1] / "agreement.csv")
    assert tuple(frame.columns) == AGREEMENT_COLUMNS
    assert len(frame) == 15  # pairs of six cells
    by_cells = frame.set_index(["strategy_a", "seed_a", "strategy_b", "seed_b"])
    same = by_cells.loc["eap", 0, "again", 0]
    assert (same.jaccard, same.rank_correlation, same.edges) == (1, pytest.approx(1), 13)
    results = {(one.cell.strategy, one.cell.seed): one.circuit for one in finished(*compared)}
    searches = by_cells.loc["acdc", 0, "acdc", 1]
    assert searches.jaccard_own == pytest.approx(results["acdc", 0].jaccard(results["acdc", 1]))
    assert searches.jaccard == pytest.approx(results["acdc", 0].top(13).jaccard(results["acdc", 1].top(13)))
    assert pandas.isna(same.jaccard_own)
    assert (by_cells.jaccard_chance < 0.03).all()


def test_conclusions_are_saved_by_model_and_task(compared: tuple[Grid, Path]) -> None:
    head, *said = (compared[1] / "conclusions.txt").read_text().splitlines()
    assert head == "ioi in toy, logit_difference: the best two strategies at each size, each in its best precision"
    assert [line.strip() for line in said] == compare_strategies(finished(*compared))
