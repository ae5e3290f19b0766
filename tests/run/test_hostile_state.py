"""A saved state that does not fit the run is refused in one line, whatever it says."""

import copy
import shutil

import pytest
import torch

from circuitkit.errors import CircuitKitError
from circuitkit.run.discoverer import Discoverer
from circuitkit.storage.state import load_state, save_state

ACDC = {"threshold": [0.05, 0.3], "absolute": True, "try_whole_reader": True}
SPECS = {
    "acdc": {"class_path": "acdc", "init_args": ACDC},
    "pahq_acdc": {"class_path": "pahq_acdc", "init_args": {"threshold": 0.3}},
    "raced": {"class_path": "acdc", "init_args": {"threshold": 0.3, "race": 1.0, "race_start": 1}},
    "edge_pruning": {"class_path": "edge_pruning", "init_args": {"target": [0.5], "trainer": {"max_steps": 6}}},
    "annealed_pruning": {"class_path": "annealed_pruning", "init_args": {"trainer": {"max_steps": 6}}},
    "matryoshka": {"class_path": "matryoshka", "init_args": {"trainer": {"max_steps": 6}}},
    "subnetwork_probing": {"class_path": "subnetwork_probing", "init_args": {"trainer": {"max_steps": 6}}},
}
AT = {
    "acdc": 60,
    "pahq_acdc": 30,
    "raced": 30,
    "edge_pruning": 4,
    "matryoshka": 4,
    "annealed_pruning": 4,
    "subnetwork_probing": 4,
}
"""The report of progress at which each is interrupted; ACDC in its second search."""
FIRST_LAST = {
    "annealed_pruning": "target_1",
    "edge_pruning": "target_1",
    "matryoshka": "ranking",
    "subnetwork_probing": "l0_weight_1",
}
pytestmark = pytest.mark.filterwarnings("ignore:This precision cannot decide")


class Interrupt:
    def __init__(self, at):
        self.at = at

    def on_progress(self, run, done, total, unit, shown):
        self.at -= 1
        if self.at == 0:
            raise KeyboardInterrupt


def discover(name, folder, *callbacks):
    discoverer = Discoverer("cpu", callbacks=list(callbacks), memory_budget="1GB")
    return discoverer.run("toy", "ioi", SPECS[name], examples=4, sizes=(), out=folder, resume=True)


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory):
    """Return a function that copies the folder of an interrupted run of a strategy."""
    made, home = {}, tmp_path_factory.mktemp("interrupted")

    def copy_of(name, folder):
        if name not in made:
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr("circuitkit.strategies.discovery.SECONDS_BETWEEN_CHECKPOINTS", 0.0)
                with pytest.raises(KeyboardInterrupt):
                    discover(name, home / name, Interrupt(AT[name]))
            made[name] = home / name
        shutil.copytree(made[name], folder)
        return folder

    return copy_of


def put(*path, value):
    """Return a change of a state: the entry at this path gets a value, or the value that a function makes of it."""

    def change(state):
        *way, last = path
        for key in way:
            state = state[key]
        state[last] = value(state[last]) if callable(value) else value

    return change


def drop(*path):
    def change(state):
        *way, last = path
        for key in way:
            state = state[key]
        del state[last]

    return change


SEARCH = ("strategy", "search")


def flip_first(where):
    def flip(mask):
        found = mask.clone()
        first = int((mask == where).nonzero()[-1])
        found[first] = not where
        return found

    return put(*SEARCH, "decided", value=flip)


def lose_undecided(state):
    """Remove an edge that the search has not decided, from the circuit and from that at the layer's start."""
    search = state["strategy"]["search"]
    lost = int((~search["decided"]).nonzero()[0])
    for name in ("kept", "layer_start"):
        search[name] = search[name].clone()
        search[name][lost] = False


COMMON = {
    "no strategy": drop("strategy"),
    "a foreign key": lambda state: state.update(foreign=1),
    "no callbacks": drop("callbacks"),
    "strategy a list": put("strategy", value=[]),
    "metrics a list": put("metrics", value=[]),
    "notes no texts": put("notes", value=[1]),
    "budget 0": put("memory_budget", value=0),
    "budget negative": put("memory_budget", value=-5),
    "resumptions negative": put("resumptions", value=-1),
    "generator short": put("generator", value=torch.zeros(3, dtype=torch.uint8)),
    "generator floats": put("generator", value=lambda state: state.float()),
    "score intervals a list": put("score_intervals", value=[]),
    "score intervals without an end": put("score_intervals", value={"low": torch.zeros(3, dtype=torch.float64)}),
    "score intervals short": put("score_intervals", value=dict.fromkeys(("low", "high"), torch.zeros(3))),
    "resources gone": drop("callbacks", "resources"),
    "time negative": put("callbacks", "resources", "wall_s", value=-1.0),
    "time no number": put("callbacks", "resources", "wall_s", value=float("nan")),
    "rows gone": drop("callbacks", "rows"),
    "rows no mappings": put("callbacks", "rows", value=[3]),
}
OF_ACDC = {
    "visited 10**9": put(*SEARCH, "visited", value=10**9),
    "visited one more": put(*SEARCH, "visited", value=lambda count: count + 1),
    "visited fewer": put(*SEARCH, "visited", value=lambda count: count - 9),
    "visited negative": put(*SEARCH, "visited", value=-1),
    "visited a float": put(*SEARCH, "visited", value=3.0),
    "an edge not decided": flip_first(True),
    "an edge decided": lambda state: put(*SEARCH, "decided", value=torch.ones_like)(state),
    "depth 0": put(*SEARCH, "depth", value=0),
    "depth huge": put(*SEARCH, "depth", value=10**9),
    "tests negative": put(*SEARCH, "tests", value=-3),
    "tests too many": put(*SEARCH, "tests", value=lambda count: count + 1),
    "hypotheses a text": put(*SEARCH, "hypotheses", value="7"),
    "gap negative": put(*SEARCH, "smallest_gap", value=-1.0),
    "layer another": put(*SEARCH, "layer", value=7),
    "heads another order": put(*SEARCH, "heads", value=lambda heads: [layer[::-1] for layer in heads]),
    "heads missing": put(*SEARCH, "heads", value=[]),
    "heads no numbers": put(*SEARCH, "heads", value=lambda heads: [["a"] for _ in heads]),
    "scores short": put(*SEARCH, "scores", value=lambda scores: scores[:-1]),
    "scores NaN": put(*SEARCH, "scores", value=lambda scores: scores * float("nan")),
    "scores float32": put(*SEARCH, "scores", value=lambda scores: scores.float()),
    "sources unknown": put(*SEARCH, "score_sources", value=lambda sources: sources + 9),
    "kept all": put(*SEARCH, "kept", value=torch.ones_like),
    "kept without an edge not decided": lose_undecided,
    "kept floats": put(*SEARCH, "kept", value=lambda kept: kept.double()),
    "layer_start none": put(*SEARCH, "layer_start", value=torch.zeros_like),
    "removals foreign": put(*SEARCH, "removals", value=[[10**6, torch.zeros(2, dtype=torch.bool)]]),
    "removals no pairs": put(*SEARCH, "removals", value=[3]),
    "search gone": put("strategy", "search", value=None),
    "search foreign key": lambda state: state["strategy"]["search"].update(foreign=1),
    "equivalents negative": put("strategy", "forward_equivalents", value=-1.0),
    "largest a text": put("strategy", "largest", value={"cone": "big"}),
    "other prompts": put("strategy", "prompts", value="0"),
    "largest a list": put("strategy", "largest", value=[]),
    "totals a text": put("strategy", "totals", value={"edges_tested": "many"}),
    "found a mapping": put("strategy", "found", value={}),
    "found for every threshold": put("strategy", "found", value=lambda found: [*found, *found, *found]),
}
OF_FOUND = {
    "found of another threshold": put("strategy", "found", 0, "selection", value="threshold 7, absolute"),
    "found short": put("strategy", "found", 0, "kept", value=lambda kept: kept[1:]),
    "found NaN": put("strategy", "found", 0, "scores", value=lambda scores: scores * float("nan")),
    "found foreign key": lambda state: state["strategy"]["found"][0].update(foreign=3),
    "found tie a number": put("strategy", "found", 0, "tie", value=3),
}
OF_RECHECKS = {
    "rechecks gone": put(*SEARCH, "rechecks", value=None),
    "rechecks of another threshold": put(*SEARCH, "rechecks", "threshold", value=0.7),
    "rechecks of another graph": put(*SEARCH, "rechecks", "edges", value=3),
    "audited negative": put(*SEARCH, "rechecks", "audited", value=-1),
    "more flipped than rechecked": put(*SEARCH, "rechecks", "flipped", value=10**6),
    "errors more than audits": put(*SEARCH, "rechecks", "errors", value=lambda errors: [*errors, 0.1]),
    "gaps integers": put(*SEARCH, "rechecks", "gaps", value=lambda gaps: gaps.long()),
    "gaps negative": put(*SEARCH, "rechecks", "gaps", value=torch.full((3,), -1.0, dtype=torch.float64)),
    "delta NaN": put(*SEARCH, "rechecks", "delta", value=float("nan")),
}
OF_RACE = {
    "race gone": put(*SEARCH, "measurement", value=None),
    "race of other stages": put(*SEARCH, "measurement", "totals", value=[2, 4]),
    "race foreign key": lambda state: state["strategy"]["search"]["measurement"].update(z=1),
    "race forwards NaN": put(*SEARCH, "measurement", "forwards", value=float("nan")),
    "race decisions negative": put(*SEARCH, "measurement", "decisions", value=-1),
    "race prompts too many": put(*SEARCH, "measurement", "prompts", value=10**9),
    "race more early than decisions": put(*SEARCH, "measurement", "early", value=10**9),
    "race more flipped than escalated": put(*SEARCH, "measurement", "flipped", value=10**9),
    "race more audited than early": put(*SEARCH, "measurement", "early", value=0),
    "race audits flipped": put(*SEARCH, "measurement", "audits_flipped", value=65),
    "race editors no list": put(*SEARCH, "measurement", "later", value=None),
    "race editor a number": put(*SEARCH, "measurement", "later", value=[1]),
    "race editor of no stage": put(*SEARCH, "measurement", "later", value=[[9, 0, 0]]),
    "race editor of the first stage": put(*SEARCH, "measurement", "later", value=[[0, 0, 0]]),
    "race editor after the search": put(*SEARCH, "measurement", "later", value=[[1, 0, 10**6]]),
    "race editor built after its end": put(*SEARCH, "measurement", "later", value=[[1, 1, 0]]),
    "race editor at a fraction": put(*SEARCH, "measurement", "later", value=[[1, 0.0, 0]]),
}
OF_TRAINED = {
    "finished more than there are": put("strategy", "finished", value=2),
    "finished negative": put("strategy", "finished", value=-1),
    "foreign key": lambda state: state["strategy"].update(foreign=1),
    "other prompts": put("strategy", "prompts", value="0" * 64),
    "prompts a number": put("strategy", "prompts", value=3),
    "no entry": put("strategy", value={}),
}
CASES = [
    *(("acdc", what) for what in (COMMON | OF_ACDC | OF_FOUND)),
    *(("pahq_acdc", what) for what in OF_RECHECKS),
    *(("raced", what) for what in OF_RACE),
    *((name, what) for name in FIRST_LAST for what in OF_TRAINED),
]
CHANGES = COMMON | OF_ACDC | OF_FOUND | OF_RECHECKS | OF_RACE | OF_TRAINED


def refused(name, folder):
    before = {path: path.read_bytes() for path in (folder / "checkpoint").rglob("*") if path.is_file()}
    with pytest.raises(CircuitKitError, match=r"saved state .*Start from scratch") as error:
        discover(name, folder)
    assert "\n" not in str(error.value)
    assert {path: path.read_bytes() for path in (folder / "checkpoint").rglob("*") if path.is_file()} == before


@pytest.mark.parametrize(("name", "what"), CASES, ids=[f"{name}: {what}" for name, what in CASES])
def test_a_state_that_does_not_fit_is_refused(name, what, interrupted, tmp_path):
    folder = interrupted(name, tmp_path / "run")
    file = folder / "checkpoint" / "state.safetensors"
    state = load_state(file)
    CHANGES[what](state)
    save_state(file, state)
    refused(name, folder)


FIT = ("loops", "fit_loop")
STEPS = (*FIT, "epoch_loop.automatic_optimization.optim_progress", "optimizer", "step", "total", "completed")


def put_gates(value):
    """Return a change of the first parameter: gates, or the scores of a ranking."""
    return lambda state: put("state_dict", next(iter(state["state_dict"])), value=value)(state)


OF_LAST = {
    "gates of another graph": put_gates(lambda gates: gates[1:]),
    "gates NaN": put_gates(lambda gates: gates * float("nan")),
    "no gates": put("state_dict", value={}),
    "steps 10**9": lambda state: (put("global_step", value=10**9)(state), put(*STEPS, value=10**9)(state)),
    "steps that were not taken": put("global_step", value=5),
    "batches that were not taken": put(*FIT, "epoch_loop.batch_progress", "current", "ready", value=6),
    "optimizer of another graph": put(
        "optimizer_states", 0, "state", 0, "exp_avg", value=torch.zeros(3, dtype=torch.float32)
    ),
    "no optimizer": put("optimizer_states", value=[]),
    "no loops": drop("loops"),
    "groups of another optimizer": put("optimizer_states", 0, "param_groups", value=[{}]),
    "no schedule": drop("lr_schedulers"),
    "schedule a text": put("lr_schedulers", value="none"),
    "no version": drop("pytorch-lightning_version"),
    "a list": lambda state: None,
}


@pytest.mark.parametrize("what", [*OF_LAST, "truncated", "empty", "a folder"])
@pytest.mark.parametrize("name", FIRST_LAST)
def test_a_training_that_does_not_fit_is_refused(name, what, interrupted, tmp_path):
    folder = interrupted(name, tmp_path / "run")
    last = folder / "checkpoint" / FIRST_LAST[name] / "last.ckpt"
    if what == "a folder":
        last.unlink()
        last.mkdir()
    elif what in ("truncated", "empty"):
        last.write_bytes(last.read_bytes()[: 500 if what == "truncated" else 0])
    else:
        state = torch.load(last, weights_only=True)
        OF_LAST[what](state)
        torch.save([] if what == "a list" else state, last)
    refused(name, folder)


def test_the_untouched_states_resume(interrupted, tmp_path):
    for name in SPECS:
        folder = interrupted(name, tmp_path / name)
        assert copy.deepcopy(discover(name, folder).metrics)
