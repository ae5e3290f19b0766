"""Grids: their cells, rules, overrides, and what is wrong with one."""

from typing import Any

import pytest
from support.cells import make_grid

from circuitkit.comparison.grid import Cell, Grid
from circuitkit.errors import UsageError
from circuitkit.report.comparison_tables import CONTROL

ACDC = {"class_path": "acdc", "init_args": {"threshold": [0.1, 1.0]}}
SWAP = {"class_path": "ioi", "init_args": {"corruption": "swap"}}
BOTH = {
    "tasks": {"abc": "ioi", "swap": SWAP},
    "strategies": {"eap": "eap", "acdc": ACDC},
    "precision": {"full": "full", "low": {"class_path": "all_low", "init_args": {"mode": "bf16"}}},
    "objectives": {"ld": "logit_difference", "kl": "kl"},
    "seeds": [0, 1],
}


def own(grid: Grid) -> list[Cell]:
    return [cell for cell in grid.cells if not cell.is_control]


def controls(grid: Grid) -> list[Cell]:
    return [cell for cell in grid.cells if cell.is_control]


def test_the_grid_is_the_product_of_its_axes_with_a_control_per_place() -> None:
    grid = make_grid(**BOTH)
    assert len(own(grid)) == 2 * 2 * 2 * 2 * 2
    places = [(cell.task, cell.objective, cell.seed) for cell in controls(grid)]
    assert places == [
        (task, objective, seed) for task in ("abc", "swap") for objective in ("ld", "kl") for seed in (0, 1)
    ]
    assert {(cell.strategy, cell.precision) for cell in controls(grid)} == {(CONTROL, "full")}
    assert len({cell.key for cell in grid.cells}) == len({cell.name for cell in grid.cells}) == len(grid.cells)
    assert [cell.seed for cell in grid.cells[:5]] == [0] * 5
    assert grid.cells[4].is_control  # last in its place


def test_a_grid_with_random_edges_of_its_own_gets_no_control() -> None:
    grid = make_grid(strategies={"eap": "eap", "chance": "random_edges"})
    assert [cell.strategy for cell in grid.cells] == ["eap", "chance"]


def test_without_a_precision_a_strategy_uses_its_own() -> None:
    cell, same = make_grid().cells[0], make_grid(precision={"whatever": "full"}).cells[0]
    assert (cell.precision, cell.precision_spec) == ("full", None)
    assert cell.key == same.key  # the same in another form: computed once


@pytest.mark.parametrize(
    ("rules", "left"),
    [
        ({"exclude": [{"tasks": "swap", "strategies": ["acdc"]}, {"seeds": 1, "tasks": "abc"}]}, [8, 0, 4, 4]),
        ({"include": [{"strategies": "acdc", "seeds": 0}]}, [4, 0, 4, 0]),
        ({"include": [{"tasks": "abc"}], "exclude": [{"precision": "low"}, {"objectives": ["kl"]}]}, [2, 2, 0, 0]),
        ({"include": [{"tasks": "abc", "seeds": 1}, {"tasks": "swap", "seeds": 0}]}, [0, 8, 8, 0]),
    ],
)
def test_rules(rules: dict[str, Any], left: list[int]) -> None:
    """Count the cells that are left per task and seed; a control stays where there is something to control."""
    grid = make_grid(**BOTH, **rules)
    places = [("abc", 0), ("abc", 1), ("swap", 0), ("swap", 1)]
    found = [sum((cell.task, cell.seed) == place for cell in own(grid)) for place in places]
    assert found == left
    with_control = {(cell.task, cell.objective, cell.seed) for cell in controls(grid)}
    assert with_control == {(cell.task, cell.objective, cell.seed) for cell in own(grid)}


TWO = {"ioi": "ioi", "swap": SWAP, "greater": "greater_than"}


def test_without_objectives_each_task_has_its_own() -> None:
    grid = make_grid(tasks=TWO, seeds=[0, 1])
    places = [(cell.task, cell.objective) for cell in grid.cells if cell.seed == 1 and not cell.is_control]
    assert places == [("ioi", "logit_difference"), ("swap", "logit_difference"), ("greater", "probability_difference")]
    assert len(controls(grid)) == 3 * 2
    for cell in grid.cells:
        assert cell.config["objective"] == grid.objectives[cell.objective]
    written = grid.to_dict()
    again = make_grid(**{name: written[name] for name in ("tasks", "objectives", "exclude", "seeds")})
    assert [cell.key for cell in again.cells] == [cell.key for cell in grid.cells]


def test_tasks_with_one_objective_are_written_down_as_before() -> None:
    given, left_out = make_grid(objectives={"logit_difference": "logit_difference"}), make_grid()
    assert given.to_dict() == left_out.to_dict()
    assert not left_out.exclude


def test_objectives_that_are_given_hold_for_every_task() -> None:
    grid = make_grid(tasks=TWO, objectives={"ld": "logit_difference"}, exclude=[{"tasks": "swap"}])
    assert {(cell.task, cell.objective) for cell in grid.cells} == {("ioi", "ld"), ("greater", "ld")}
    grid = make_grid(tasks=TWO, exclude=[{"tasks": "swap"}, {"objectives": "probability_difference"}])
    assert {cell.task for cell in grid.cells} == {"ioi"}


def test_the_control_can_be_excluded() -> None:
    assert controls(make_grid(exclude=[{"strategies": CONTROL}])) == []


def test_overrides_change_the_options_of_their_cells() -> None:
    overrides = [
        {"cells": {"tasks": "swap"}, "set": {"examples": 4, "sizes": [0.5, 1.0], "time_limit": 5}},
        {"cells": {"strategies": "acdc"}, "set": {"strategy_args": {"absolute": True}, "memory_budget": "1GB"}},
        {"cells": {"tasks": "swap", "strategies": "acdc"}, "set": {"examples": 2, "ablation": "zero"}},
    ]
    cells = {(cell.task, cell.strategy): cell for cell in make_grid(**BOTH | {"seeds": [0]}, overrides=overrides).cells}
    examples = {place: cell.options.examples for place, cell in cells.items()}
    assert examples == {
        **{("abc", strategy): 8 for strategy in ("eap", "acdc", CONTROL)},
        ("swap", "eap"): 4,
        ("swap", "acdc"): 2,
        ("swap", CONTROL): 4,
    }
    assert cells["swap", CONTROL].options.sizes == [0.5, 1.0]
    assert [cell.options.time_limit for cell in cells.values()] == [None] * 3 + [5] * 3
    for (_, strategy), cell in cells.items():
        assert (cell.options.memory_budget == "1GB") == (strategy == "acdc")
        arguments = cell.config["strategy"].get("init_args", {})
        assert arguments.get("absolute", False) == (strategy == "acdc")
    assert cells["abc", "acdc"].config["strategy"]["init_args"]["threshold"] == [0.1, 1.0]
    assert cells["swap", "acdc"].config["ablation"] != cells["swap", "eap"].config["ablation"]


def test_strategy_args_of_an_override_leave_the_control_alone() -> None:
    overrides = [{"cells": {"tasks": "ioi"}, "set": {"strategy_args": {"threshold": 2.0}}}]
    grid = make_grid(strategies={"acdc": ACDC}, overrides=overrides)
    assert grid.cells[0].config["strategy"]["init_args"]["threshold"] == 2.0
    assert controls(grid)[0].key == controls(make_grid())[0].key


def test_the_key_is_of_all_that_decides_the_result() -> None:
    key = make_grid().cells[0].key
    changes: list[dict[str, Any]] = [
        {"examples": 9},
        {"sizes": [1.0]},
        {"ablation": "zero"},
        {"seeds": [1]},
        {"objectives": {"kl": "kl"}},
        {"tasks": {"ioi": SWAP}},
        {"models": {"toy": {"name": "toy", "kv": "head"}}},
        {"memory_budget": "1GB"},
        {"precision": {"full": "all_low"}},
    ]
    keys = {make_grid(**change).cells[0].key for change in changes}
    assert len(keys | {key}) == len(changes) + 1
    same = make_grid(time_limit=3, strategies={"another label": "eap"}, seeds=[0, 5])
    assert same.cells[0].key == key


def test_the_names_of_folders_are_safe() -> None:
    labels = ["../../evil [red]", "a" * 300, "ü b"]
    for cell in make_grid(strategies=dict.fromkeys(labels, "eap")).cells:
        assert len(cell.name) < 120
        assert not set(cell.name) & set("/\\ []ü")
        assert not cell.name.startswith(".")


def test_the_config_makes_the_same_grid_again() -> None:
    overrides = [{"cells": {"strategies": "acdc"}, "set": {"strategy_args": {"absolute": True}, "time_limit": 9.5}}]
    grid = make_grid(**BOTH, overrides=overrides, exclude=[{"tasks": "swap", "seeds": 1}], memory_budget="2GB")
    again = Grid(**grid.to_dict())
    assert [cell.name for cell in again.cells] == [cell.name for cell in grid.cells]
    assert [cell.options for cell in again.cells] == [cell.options for cell in grid.cells]


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        ({"strategies": {"a": "epa"}}, "no strategy 'epa'. Did you mean 'eap'"),
        ({"strategies": {"a": {"class_path": "acdc", "init_args": {"treshold": 1}}}}, "'treshold'"),
        ({"strategies": {"a": {"class_path": "acdc", "init_args": {"threshold": float("nan")}}}}, "nan"),
        ({"strategies": {"a": {"class": "acdc"}}}, "does not name"),
        ({"strategies": {}}, "has no strategies"),
        ({"seeds": []}, "has no seeds"),
        ({"precision": {"a": "ful"}}, "Did you mean 'full'"),
        ({"models": {"a": {"name": "toy", "dtyp": "float32"}}}, "unknown key 'dtyp'"),
        ({"models": {"a": {"kv": "group"}}}, "has no name"),
        ({"models": {"a": {"name": "toy", "kv": "heads"}}}, "kv='heads'"),
        ({"objectives": {"a": "klm"}}, "no objective 'klm'"),
        ({"exclude": [{"strategy": "eap"}]}, "Did you mean 'strategies'"),
        ({"exclude": [{"strategies": "epa"}]}, "no label under strategies 'epa'. Did you mean 'eap'"),
        ({"exclude": [{}]}, "is empty"),
        ({"exclude": [{"strategies": "eap"}]}, "no cells left"),
        ({"exclude": ["eap"]}, "is not a mapping"),
        ({"include": [{"objectives": "logit_diference"}]}, "Did you mean 'logit_difference'"),
        ({"include": [{"precision": "int8"}]}, "no label under precision 'int8'"),
        ({"include": [{"seeds": 4}]}, "no label under seeds 4"),
        ({"include": [{"strategies": CONTROL}]}, "no cells left"),
        ({"overrides": [{"cells": {"task": "ioi"}, "set": {"examples": 2}}]}, "Did you mean 'tasks'"),
        ({"overrides": [{"cells": {"tasks": "ioi"}, "set": {"example": 2}}]}, "Did you mean 'examples'"),
        ({"overrides": [{"cells": {"tasks": "ioi"}}]}, "`cells` and `set`"),
        ({"overrides": [{"cells": {"tasks": "ioi"}, "set": {}}]}, "sets {}"),
        ({"overrides": [{"cells": {"tasks": "ioi"}, "set": {"sizes": [0.5, 0.1]}}]}, "not rising fractions"),
        ({"overrides": [{"cells": {"tasks": "ioi"}, "set": {"strategy_args": {"tresh": 1}}}]}, "'tresh'"),
        ({"overrides": [{"cells": {"tasks": "ioi"}, "set": {"strategy_args": 3}}]}, "strategy_args are 3"),
        ({"seeds": [0, 1, 0]}, "The seed 0 is given twice"),
        ({"overrides": [{"cells": {"tasks": "ioi"}, "set": {"faithfulness": -0.5}}]}, "faithfulness=-0.5"),
        ({"overrides": [3]}, "`cells` and `set`"),
        (
            {"overrides": [{"cells": {"strategies": CONTROL, "precision": "full"}, "set": {"examples": 2}}]},
            "about the precision of the random control",
        ),
        ({"exclude": [{"strategies": [CONTROL], "precision": "full"}]}, "about the precision of the random control"),
        (
            {"overrides": [{"cells": {"strategies": CONTROL}, "set": {"strategy_args": {"seed": 2}}}]},
            "sets strategy_args of the random control",
        ),
        ({"time_limit": 0}, "time_limit=0"),
        ({"time_limit": float("nan")}, "time_limit=nan"),
        ({"memory_budget": "much"}, "'much'"),
        ({"seeds": [0, -1]}, "The seed -1"),
        ({"seeds": [0, "one"]}, "The seed 'one'"),
        ({"seeds": [2**32]}, "The seed 4294967296"),
        ({"seeds": [True]}, "The seed True"),
        ({"examples": 0}, "examples=0"),
        ({"examples": "many"}, "examples='many'"),
        ({"sizes": []}, "sizes [] are not rising"),
        ({"sizes": [0.5, 0.1]}, "not rising fractions"),
        ({"sizes": [0.5, 1.5]}, "not rising fractions"),
        ({"sizes": [float("nan")]}, "not rising fractions"),
        ({"sizes": ["half"]}, "not rising fractions"),
        ({"sizes": 0.5}, "not rising fractions"),
        ({"models": {"a": 5}}, "does not name a model"),
        ({"tasks": {"a": None}}, "does not name"),
        ({"dtype": "float33"}, "'float33'"),
        ({"models": {"a": {"name": "toy", "dtype": "int8"}}}, "'int8'"),
    ],
)
def test_a_wrong_grid_is_refused_before_any_work(parts: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError) as raised:
        make_grid(**parts)
    assert said in str(raised.value)
