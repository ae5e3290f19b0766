"""A killed run resumes to the same result, bit for bit; what is not the same run is refused."""

import csv
import shutil
import signal
from pathlib import Path

import pytest
import torch
import yaml
from support import killed
from support.tiny import random_batch, tiny_hf

import circuitkit
from circuitkit import CircuitModel
from circuitkit.cli.main import main
from circuitkit.errors import UsageError
from circuitkit.run import resources
from circuitkit.run.discoverer import Discoverer
from circuitkit.run.reevaluate import reevaluate
from circuitkit.run.result import Result
from circuitkit.tasks.ioi import IOI

SPEC = {"class_path": "acdc", "init_args": {"threshold": [0.05, 0.3], "absolute": True, "try_whole_reader": True}}


class Counter:
    """Counts reports of progress."""

    seen = 0

    def on_progress(self, run, done, total, unit, shown):
        self.seen += 1


def test_killed_twice_and_resumed(tmp_path):
    folder, counter = tmp_path / "run", Counter()
    whole = Discoverer("cpu", callbacks=[counter]).run("toy", "ioi", SPEC, examples=6, sizes=[])
    for readers in (9, 45):  # in the first search; in the second, counted from the resumed reader on
        died = killed.run(SPEC, folder, readers)
        assert died.returncode == -signal.SIGKILL, died.stderr
        assert not (folder / "result.json").exists()
        assert (folder / "checkpoint" / "state.safetensors").exists()
    finished = killed.run(SPEC, folder)
    assert finished.returncode == 0, finished.stderr
    # A reader is reported before it is saved, so that the one at which the run was killed is searched again
    assert killed.reports(finished) == counter.seen - (9 - 1) - (45 - 1)
    resumed = Result.load(folder)
    assert not (folder / "checkpoint").exists()
    for one, other in zip(resumed.circuits, whole.circuits, strict=True):
        assert torch.equal(one.scores, other.scores)
        assert torch.equal(one.kept, other.kept)
        assert torch.equal(one.score_sources, other.score_sources)
    for name in ("edges_tested", "smallest_gap", "forward_equivalents", "captures_mb", "live_mb", "cone_mb"):
        assert resumed.metrics[name] == whole.metrics[name], name


class Interrupt:
    """Interrupts at a report of progress, as Ctrl-C would."""

    def __init__(self, at):
        self.at, self.seen = at, 0

    def on_progress(self, run, done, total, unit, shown):
        self.seen += 1
        if self.seen == self.at:
            raise KeyboardInterrupt


@pytest.fixture
def save_always(monkeypatch):
    monkeypatch.setattr("circuitkit.strategies.discovery.SECONDS_BETWEEN_CHECKPOINTS", 0.0)


def run(model, task, folder, at=None, strategy=SPEC, callbacks=(), memory_budget=None, **more):
    """Run in a folder; with `at`, up to that report of progress."""
    interrupt = [] if at is None else [Interrupt(at)]
    discoverer = Discoverer("cpu", callbacks=[*interrupt, *callbacks], memory_budget=memory_budget)
    options = {"examples": 6, "sizes": (), "out": folder} | more
    if at is None:
        return discoverer.run(model, task, strategy, **options)
    with pytest.raises(KeyboardInterrupt) as caught:
        discoverer.run(model, task, strategy, **options)
    return caught.value


@pytest.mark.parametrize("read", [Result.load, reevaluate])
def test_an_interrupted_run_that_is_read_as_a_finished_one_says_how_to_resume(tmp_path, save_always, read):
    folder = tmp_path / "run"
    run("toy", "ioi", folder, at=9)
    with pytest.raises(UsageError, match="runs still, or was interrupted") as caught:
        read(folder)
    assert f"--out {folder} --resume" in str(caught.value)


def test_a_run_does_not_resume_with_another_configuration(tmp_path, save_always):
    folder = tmp_path / "run"
    run("toy", "ioi", folder, at=9)
    with pytest.raises(UsageError, match="examples 6, not 4"):
        run("toy", "ioi", folder, examples=4, resume=True)
    assert (folder / "checkpoint" / "state.safetensors").exists()


# The same run: prompts and weights are compared


ROWS = "clean,corrupted,answer,wrong_answer\n"
ROW = "When {} and {} went to the store, {} gave a drink to"


def prompt_file(path, names=("Mary", "John")):
    one, other = names
    rows = [
        f'"{ROW.format(a, b, b)}","{ROW.format(a, b, a)}"," {a}"," {b}"\n'
        for a, b in ((one, other), (other, one), ("Daniel", one), (one, "Daniel"), ("Daniel", other), (other, "Daniel"))
    ]
    path.write_text(ROWS + "".join(rows))
    return {"class_path": "prompt_file", "init_args": {"path": str(path)}}


def changed_weight(model):
    with torch.no_grad():
        next(iter(model.model.parameters())).view(-1)[0].add_(1e-3)
    return model


def other_setting(model):
    model.model.config.layer_norm_epsilon = 0.5
    return model


def gpt2(change=lambda model: model):
    return change(CircuitModel.from_model(tiny_hf("gpt2", dtype=torch.float32)))


class Recoded(IOI):
    """A task whose code changes between two runs."""

    shift = 0

    def prompts(self, tokenizer, split, examples, seed):
        return super().prompts(tokenizer, split, examples, seed + self.shift * (split == "test"))


def other_content(kind, folder, monkeypatch):
    """Return model and task of a first run, and of a second one whose configuration reads the same."""
    batch = random_batch(lengths=(5, 7, 6, 6))
    if kind == "batch":
        return (gpt2(), batch), (gpt2(), random_batch(1, lengths=(5, 7, 6, 6)))
    if kind == "answers":
        return (gpt2(), batch), (gpt2(), random_batch(lengths=(5, 7, 6, 6), answers=2))
    if kind == "weights":
        return (gpt2(), batch), (gpt2(changed_weight), batch)
    return (gpt2(), batch), (gpt2(other_setting), batch)


DIFFERENCES = {
    "batch": "other prompts in the train split",
    "answers": "other prompts in the train split",
    "weights": "a model with other weights",
    "settings": "a model with other settings",
}


@pytest.mark.parametrize("finished", [True, False])
@pytest.mark.parametrize("kind", DIFFERENCES)
def test_another_content_under_the_same_configuration_is_refused(kind, finished, tmp_path, save_always, monkeypatch):
    first, second = other_content(kind, tmp_path, monkeypatch)
    folder = tmp_path / "run"
    run(*first, folder, at=None if finished else 3)
    before = {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    with pytest.raises(UsageError, match=f"was made with {DIFFERENCES[kind]}") as refused:
        run(*second, folder, resume=True)
    assert "\n" not in str(refused.value)
    assert {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
    resumed = run(*first, folder, resume=True)
    assert torch.equal(resumed.circuit.scores, run(*first, None).circuit.scores)


@pytest.mark.parametrize("kind", ["file", "code"])
def test_prompts_that_were_made_otherwise_are_refused(kind, tmp_path, monkeypatch):
    folder, task = tmp_path / "run", prompt_file(tmp_path / "prompts.csv") if kind == "file" else Recoded()
    options = {"strategy": "random_edges", "examples": 2, "sizes": [0.5]}
    run("toy", task, folder, **options)
    assert run("toy", task, folder, **options, resume=True).circuit is not None
    if kind == "file":
        prompt_file(tmp_path / "prompts.csv", ("Mary", "Paul"))
    else:
        monkeypatch.setattr(Recoded, "shift", 5)
    split = "train" if kind == "file" else "test"
    with pytest.raises(UsageError, match=f"other prompts in the {split} split"):
        run("toy", task, folder, **options, resume=True)
    if kind == "file":
        (found,) = reevaluate(folder, sizes=[0.5])[1]["test"]
        assert "were found with other prompts in the train split" in " ".join(found.notes)


def test_a_folder_without_a_record_of_its_content_is_not_resumed_but_evaluated(tmp_path):
    folder = tmp_path / "run"
    run("toy", "ioi", folder, strategy="random_edges")
    assert not reevaluate(folder, sizes=[0.5])[1]["test"][0].notes
    config = yaml.safe_load((folder / "config.yaml").read_text())
    assert set(config.pop("content")) == {"weights", "settings", "train"}
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    with pytest.raises(UsageError, match="does not say which prompts and weights"):
        run("toy", "ioi", folder, strategy="random_edges", resume=True)
    assert len(reevaluate(folder, sizes=[0.5])[1]["test"]) == 1


def test_a_run_without_a_folder_hashes_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr("circuitkit.run.discoverer.describe_content", lambda *_: 1 / 0)
    assert "content" not in run("toy", "ioi", None, strategy="random_edges").config


def test_weights_are_the_same_wherever_and_however_often_they_are_held(tmp_path):
    """Tied tensors, other layouts, and tables that a model computes anew do not change the record."""
    from circuitkit.run.content import describe_content

    model = CircuitModel.from_pretrained("toy")
    batch = {"train": random_batch()}
    before = describe_content(model, batch)
    for parameter in model.model.parameters():
        if parameter.ndim == 2:
            parameter.data = parameter.data.t().contiguous().t()
    assert describe_content(model, batch) == before


# An interrupted run says how to go on


def test_an_interrupted_run_says_how_to_go_on_and_is_not_thrown_away(tmp_path, save_always):
    folder = tmp_path / "run"
    interrupted = run("toy", "ioi", folder, at=9)
    (note,) = interrupted.__notes__
    assert str(folder) in note
    assert "--resume" in note
    assert "resume=True" in note
    state = (folder / "checkpoint" / "state.safetensors").read_bytes()
    with pytest.raises(UsageError, match=r"(?s)interrupted run.*--resume.*--overwrite"):
        run("toy", "ioi", folder)
    with pytest.raises(UsageError, match="interrupted run"):
        Discoverer("cpu").dry_run("toy", "ioi", SPEC, examples=6, out=folder)
    assert (folder / "checkpoint" / "state.safetensors").read_bytes() == state
    other = run("toy", "ioi", folder, strategy="eap", examples=4, overwrite=True)
    assert Result.load(folder).circuit == other.circuit
    assert not (folder / "checkpoint").exists()


COMMAND = ["discover", "--model", "toy", "--task", "ioi", "--strategy", "acdc", "--examples", "4"]


def test_the_command_line_says_how_to_go_on(tmp_path, save_always, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr("circuitkit.run.callbacks.RichProgress", lambda: Interrupt(9))
        assert main(COMMAND) == 130
    (folder,) = Path("runs").iterdir()
    said = capsys.readouterr().err
    assert said.startswith("circuitkit: interrupted")
    assert f"--out {folder} --resume" in said
    assert main([*COMMAND, "--out", str(folder)]) == 2
    assert "--resume" in capsys.readouterr().err
    assert main([*COMMAND, "--out", str(folder), "--resume"]) == 0
    assert "interrupted and resumed" in capsys.readouterr().out


def test_the_command_line_names_the_interrupted_run_of_a_default_folder(tmp_path, save_always, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr("circuitkit.run.callbacks.RichProgress", lambda: Interrupt(9))
        assert main(COMMAND) == 130
    (folder,) = Path("runs").iterdir()
    capsys.readouterr()
    assert main([*COMMAND, "--seed", "1"]) == 0
    assert capsys.readouterr().err == ""
    assert main(COMMAND) == 0
    assert f"--out {folder} --resume" in capsys.readouterr().err
    assert (folder / "checkpoint").exists()


def test_discover_replaces_results_only_if_it_is_told_to(tmp_path):
    def discover(strategy, **options):
        return circuitkit.discover("toy", "ioi", strategy, examples=4, sizes=(), out=tmp_path / "run", **options)

    discover("eap")
    with pytest.raises(UsageError, match=r"overwrite=True"):
        discover("random_edges")
    found = discover("random_edges", overwrite=True)
    assert torch.equal(Result.load(tmp_path / "run").circuit.scores, found.circuit.scores)


def test_resume_needs_a_folder(tmp_path, monkeypatch, capsys):
    for method in (Discoverer("cpu").run, Discoverer("cpu").dry_run):
        with pytest.raises(UsageError, match=r"resume.*no folder.*out"):
            method("toy", "ioi", "eap", resume=True)
    with pytest.raises(UsageError, match=r"resume.*no folder.*out"):
        circuitkit.discover("toy", "ioi", "eap", resume=True)
    monkeypatch.chdir(tmp_path)
    assert main([*COMMAND, "--resume"]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "--out" in said
    assert not list(tmp_path.iterdir())


def test_a_finished_run_is_not_resumed_to_another_evaluation(tmp_path):
    options = {"sizes": [0.1, 0.5], "splits": ["validation"], "rankings": ["signed"]}
    made = run("toy", "ioi", tmp_path / "run", strategy="eap", **options)
    assert run("toy", "ioi", tmp_path / "run", strategy="eap", resume=True, **options).evaluations == made.evaluations
    for key, other in {"sizes": None, "splits": ["test"], "rankings": ["signed", "random"]}.items():
        with pytest.raises(UsageError, match=rf"evaluated with {key} .*circuitkit evaluate .* --{key}"):
            run("toy", "ioi", tmp_path / "run", strategy="eap", resume=True, **{**options, key: other})
    config = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    for key in options:  # a folder of a version that did not record them
        del config[key]
    (tmp_path / "run" / "config.yaml").write_text(yaml.safe_dump(config))
    assert run("toy", "ioi", tmp_path / "run", strategy="eap", resume=True).evaluations == made.evaluations


def test_a_search_whose_evaluation_was_interrupted_may_be_evaluated_otherwise(tmp_path, monkeypatch):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("circuitkit.evaluation.evaluator.Evaluator.evaluate", interrupt)
        with pytest.raises(KeyboardInterrupt):
            run("toy", "ioi", tmp_path / "run", strategy="eap", sizes=None)
    other = {"sizes": [0.5], "splits": ["validation", "test"], "rankings": ["absolute"]}
    resumed = run("toy", "ioi", tmp_path / "run", strategy="eap", resume=True, **other)
    whole = run("toy", "ioi", tmp_path / "whole", strategy="eap", **other)
    assert resumed.evaluations == whole.evaluations
    assert Result.load(tmp_path / "run").config == whole.config


# A resumed run covers all its legs


class Clock:
    """Stands in for the `time` module of the resource monitor: a second passes with every report."""

    now = 0.0

    def perf_counter(self):
        return self.now

    def on_progress(self, run, done, total, unit, shown):
        self.now += 1


TRAINED = {"class_path": "edge_pruning", "init_args": {"target": [0.5, 0.6], "trainer": {"max_steps": 6}}}


@pytest.mark.parametrize("spec", [SPEC, TRAINED], ids=["acdc", "edge_pruning"])
def test_time_rows_and_notes_of_a_resumed_run_cover_all_legs(spec, tmp_path, save_always, monkeypatch):
    folder, clock = tmp_path / "run", Clock()
    monkeypatch.setattr(resources, "time", clock)
    whole = run("toy", "ioi", tmp_path / "whole", strategy=spec, callbacks=[clock])
    assert not [note for note in whole.notes if "interrupted" in note]
    for at in (5, 4):
        run("toy", "ioi", folder, at=at, strategy=spec, callbacks=[clock], resume=True)
    resumed = run("toy", "ioi", folder, strategy=spec, callbacks=[clock], resume=True)
    assert resumed.metrics["wall_s"] == whole.metrics["wall_s"] > 0
    (note,) = (note for note in resumed.notes if "interrupted" in note)
    assert "interrupted and resumed 2 times" in note
    assert note in str(resumed)
    columns = ("step", "edges", "tested", "kept", "steps", "objective", "sparsity", "penalty")
    one, other = (list(csv.DictReader((path / "metrics.csv").open())) for path in (tmp_path / "whole", folder))
    assert len(one) == len(other) > 10
    for row, other_row in zip(one, other, strict=True):
        assert [row.get(name) for name in columns] == [other_row.get(name) for name in columns]


def test_the_peak_of_a_resumed_run_is_that_of_its_largest_leg(tmp_path, save_always, monkeypatch):
    class Probe:
        what, high = "test", 0

        def now(self):
            return 0

        def reset(self):
            pass

        def synchronize(self):
            pass

        def peak(self):
            return self.high

    probe = Probe()
    monkeypatch.setattr(resources, "_memory_probe", lambda device: probe)
    probe.high = 700 * 2**20
    run("toy", "ioi", tmp_path / "run", at=9)
    probe.high = 5 * 2**20
    assert run("toy", "ioi", tmp_path / "run", resume=True).metrics["peak_mb"] == 700


class Budget:
    """Notes the memory budget of a run."""

    def on_progress(self, run, done, total, unit, shown):
        self.bytes = run.memory_budget


def test_a_resumed_run_obeys_a_new_memory_budget(tmp_path, save_always):
    first, second, budget = tmp_path / "run", tmp_path / "copy", Budget()
    run("toy", "ioi", first, at=9, memory_budget="1GB")
    shutil.copytree(first, second)
    kept = run("toy", "ioi", first, resume=True, callbacks=[budget])
    assert budget.bytes == 2**30  # as before: the last bits depend on it
    smaller = run("toy", "ioi", second, resume=True, callbacks=[budget], memory_budget="30MB")
    assert budget.bytes == 30 * 2**20
    assert "memory budget" in " ".join(smaller.notes)
    assert "memory budget" not in " ".join(kept.notes)
    assert torch.equal(kept.circuit.kept, smaller.circuit.kept)


# Several thresholds in random orders


@pytest.mark.parametrize("at", [0.1, 0.5, 0.9])
def test_a_resumed_search_takes_the_orders_of_a_whole_one(at, tmp_path, save_always):
    shuffled = {"class_path": "acdc", "init_args": {"threshold": [0.3, 0.31, 0.32, 0.33], "order": "shuffle"}}

    class Orders:
        def __init__(self):
            self.seen, self.orders = 0, []

        def on_reader_end(self, run, search):
            self.seen += 1
            if search._heads not in self.orders:
                self.orders.append(search._heads)

    watched = Orders()
    whole = run("toy", "ioi", None, strategy=shuffled, callbacks=[watched])
    assert len(watched.orders) == 4
    run("toy", "ioi", tmp_path / "run", at=max(int(at * watched.seen), 1), strategy=shuffled)
    again = Orders()
    resumed = run("toy", "ioi", tmp_path / "run", strategy=shuffled, callbacks=[again], resume=True)
    assert again.orders == watched.orders[-len(again.orders) :]
    for one, other in zip(resumed.circuits, whole.circuits, strict=True):
        assert torch.equal(one.scores, other.scores)
