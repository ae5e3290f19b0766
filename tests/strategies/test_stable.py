"""The strategy `stable`: what each search is given, how they are counted, and how an interrupted run goes on."""

import json
import signal
from itertools import combinations, pairwise

import pytest
import torch
import yaml
from support import killed
from support.tiny import random_batch, tiny

import circuitkit
from circuitkit import Circuit, CircuitModel, Discoverer, DiscoveryStrategy
from circuitkit.cli.main import main
from circuitkit.config import specs
from circuitkit.data.prompt_batch import PromptBatch
from circuitkit.engine import memory
from circuitkit.errors import CircuitKitError, UsageError
from circuitkit.precision.pahq import PAHQ
from circuitkit.run.result import Result
from circuitkit.strategies import ACDC, EAP, EdgePruning, RandomEdges, Stable
from circuitkit.strategies.base import OperatingPoint
from circuitkit.strategies.stable import Varied, _draw_part

ALL: list[Varied] = ["prompts", "templates", "seed", "order"]


class Watched(DiscoveryStrategy):
    """Keeps the edges whose number is a multiple of the first token of a prompt that it was given; records its runs."""

    def __init__(self, order: str = "reverse", circuits: int = 1) -> None:
        self.order, self.circuits = order, circuits

    seen: list[dict[str, object]] = []  # noqa: RUF012

    def discover(self, run):
        (batch,) = run.batches
        drawn = torch.rand(3, generator=run.generator, dtype=torch.float64)
        self.seen.append(
            {
                "batch": batch,
                "seed": run.generator.initial_seed(),
                "drawn": drawn,
                "order": self.order,
                "more": len(run.distinct_prompts(1000)),
            }
        )
        edges = torch.arange(len(run.model.graph), dtype=torch.int64)
        kept = (edges % 7 == len(self.seen) % 2) | (edges % 5 == 0)
        run.log(edges_tested=10)
        run.note("One caveat.")
        found = Circuit(run.model.graph, edges.double(), kept, torch.zeros_like(kept, dtype=torch.int8), "watched")
        return [found] * (self.circuits if self.circuits > 0 else len(self.seen))


class Cut(DiscoveryStrategy):
    """Keeps the edges with a first-order effect of at least a threshold."""

    operating_point = OperatingPoint("threshold")

    def __init__(self, threshold: float) -> None:
        self.threshold = threshold

    def discover(self, run):
        return Circuit.from_scores(run.model.graph, run.attribution()).threshold(self.threshold)


@pytest.fixture
def seen(monkeypatch):
    monkeypatch.setattr(Watched, "seen", [])
    return Watched.seen


@pytest.fixture(scope="module")
def toy():
    return CircuitModel.from_pretrained("toy")


def find(model, strategy, task="ioi", callbacks=(), **more):
    options = {"examples": 12, "sizes": (), **more}
    seed = options.pop("seed", 3)
    return Discoverer("cpu", callbacks=list(callbacks), seed=seed).run(model, task, strategy, **options)


def rows_of(part: PromptBatch, whole: PromptBatch) -> list[int]:
    """The numbers of prompts in the whole batch."""
    numbers = [(whole.clean == row).all(1).nonzero()[:, 0].tolist() for row in part.clean]
    return [one for found in numbers for one in found]


# What each search is given


@pytest.mark.filterwarnings("ignore:One caveat")
def test_one_thing_is_varied_at_a_time(toy, seen):
    task = circuitkit.tasks.IOI()
    whole = task.prompts(toy.tokenizer, "train", 12, 3)
    result = find(toy, Stable(Watched(), samples=5, vary=ALL), task)
    prompts, templates, seeds, orders = (seen[5 * number : 5 * number + 5] for number in range(4))
    assert len(seen) == 20
    for one in prompts:
        rows = rows_of(one["batch"], whole)
        assert len(rows) == 6
        assert rows == sorted(set(rows))
        assert one["more"] == 6  # not the task's others either
    assert len({tuple(rows_of(one["batch"], whole)) for one in prompts}) > 1
    labels = set(whole.templates)
    for one in templates:
        chosen = set(one["batch"].templates)
        assert len(chosen) == round(len(labels) / 2)
        assert rows_of(one["batch"], whole) == [row for row in range(12) if whole.templates[row] in chosen]
    assert len({tuple(sorted(set(one["batch"].templates))) for one in templates}) > 1
    for one in [*seeds, *orders]:
        assert torch.equal(one["batch"].clean, whole.clean)
        assert one["more"] > 500  # as in a run of the strategy itself
    for one in [*prompts, *templates]:
        assert one["seed"] == 3
        assert torch.equal(one["drawn"], prompts[0]["drawn"])
    for varied in (seeds, orders):
        assert len({one["seed"] for one in varied}) == 5
    assert [one["order"] for one in seen] == 15 * ["reverse"] + 5 * ["shuffle"]
    assert result.metrics["edges_tested"] == 200
    assert result.notes.count("One caveat.") == 1


def test_all_parts_are_equally_likely_and_independent():
    """Of 4 prompts there are 6 halves: a chi-squared test of 600 draws, and successive draws that are equal."""
    generator = torch.Generator().manual_seed(0)
    parts = [tuple(_draw_part(4, 0.5, "prompts", generator).tolist()) for _ in range(600)]
    halves = list(combinations(range(4), 2))
    assert set(parts) == set(halves)
    assert sum((parts.count(half) - 100) ** 2 / 100 for half in halves) < 20.5  # 0.999 quantile, 5 degrees of freedom
    same = sum(one == other for one, other in pairwise(parts))
    assert abs(same - 599 / 6) < 4 * (599 * 5 / 36) ** 0.5


# How they are counted


class Watch:
    """Records the prompts and the seed of every search that reports progress."""

    def __init__(self):
        self.searches = {}

    def on_progress(self, run, done, total, unit, shown):
        self.searches[id(run)] = (run, run.batches[0], run.generator.initial_seed())


@pytest.mark.parametrize(
    ("strategy", "size", "varied", "precision"),
    [
        (ACDC(0.02), None, ["prompts", "seed", "order"], None),
        (EAP(), 0.1, ["prompts", "seed"], None),
        (EAP(), 0.3, ["prompts"], PAHQ("nf4")),
        (EdgePruning(0.5, trainer={"max_steps": 4}), None, ["prompts", "seed"], None),
    ],
    ids=["acdc", "eap", "eap, nf4", "edge pruning"],
)
@pytest.mark.filterwarnings("ignore:This precision cannot decide")
def test_votes_of_runs_of_the_strategy_itself(strategy, size, varied, precision):
    """Each search equals a run on its prompts with its seed; votes are counted edge by edge."""
    model, batch, watch = tiny("llama"), random_batch(lengths=(6, 7, 5, 7, 6)), Watch()
    stable = Stable(strategy, samples=5, vary=varied, size=size)
    result = find(model, stable, batch, [watch], precision=precision)
    searches, votes = list(watch.searches.values()), {}
    assert len(searches) == 5 * len(varied)
    circuits = {}
    for number, (_, prompts, seed) in enumerate(searches):
        alone = strategy.with_arguments(order="shuffle") if varied[number // 5] == "order" else strategy
        found = find(model, alone, prompts, seed=seed, precision=precision)
        circuit = found.circuit if size is None else found.circuit.top(round(size * len(model.graph)))
        circuits.setdefault(varied[number // 5], []).append(circuit)
        for edge in circuit:
            votes[varied[number // 5], edge] = votes.get((varied[number // 5], edge), 0) + 1
    names = model.graph.names
    kept = [all(votes.get((one, name), 0) == 5 for one in varied) for name in names]
    removed = [all((one, name) not in votes for one in varied) for name in names]
    assert result.circuit.kept.tolist() == kept
    assert result.circuit.scores.tolist() == [min(votes.get((one, name), 0) for one in varied) / 5 for name in names]
    contested = [name for name, one, other in zip(names, kept, removed, strict=True) if not one and not other]
    assert list(result.metrics["contested_edges"][0]) == contested
    assert contested
    assert any(kept)
    for row in result.metrics["stability"]:
        pairs = [one.jaccard(other) for one, other in combinations(circuits[row["varied"]], 2)]
        assert row["jaccard"] == pytest.approx(sum(pairs) / 10)
        assert row["kept"] + row["removed"] + row["contested"] == len(names)


def test_a_control_that_chooses_at_random_wins_almost_no_edge(toy):
    result = find(toy, Stable(RandomEdges(), samples=12, vary="seed", size=0.3))
    (row,) = result.metrics["stability"]
    assert result.metrics["votes_needed"] == 10
    assert row["kept"] == len(result.circuit) < 3  # 262 edges, each with a chance of 2e-4
    assert row["removed"] / 262 == pytest.approx(0.253, abs=0.11)  # at most 2 votes; 4 standard deviations
    assert row["jaccard"] == pytest.approx(0.18, abs=0.05)
    assert result.circuit.scores.mean() == pytest.approx(0.3, abs=0.01)


def test_a_strategy_with_a_fixed_answer_is_never_contested(toy):
    result = find(toy, Stable(EAP(), vary=["seed"], size=0.2))
    alone = find(toy, EAP())
    assert torch.equal(result.circuit.kept, alone.circuit.top(round(0.2 * 262)).kept)
    assert result.metrics["contested_edges"] == [{}]
    assert result.metrics["stability"] == [
        {"circuit": 1, "varied": "seed", "kept": 52, "removed": 210, "contested": 0, "jaccard": 1.0}
    ]


def test_several_thresholds_have_a_circuit_each(toy):
    both = find(toy, Stable(ACDC([0.05, 0.5]), samples=5))
    assert len(both.circuits) == 2
    for number, threshold in enumerate((0.05, 0.5), 1):
        alone = find(toy, Stable(ACDC(threshold), samples=5))
        assert torch.equal(both.circuits[number - 1].kept, alone.circuit.kept)
        assert both.circuits[number - 1].selection == alone.circuit.selection
        rows = [row for row in both.metrics["stability"] if row["circuit"] == number]
        assert [{**row, "circuit": 1} for row in rows] == alone.metrics["stability"]
    assert str(both).count("Edges by the votes of 5 searches (5 decide)") == 2
    (table,) = [line.split() for line in str(alone).splitlines() if line.startswith("  prompts ")]
    (row,) = alone.metrics["stability"]
    assert table == ["prompts", *(f"{row[name]}" for name in ("kept", "removed", "contested")), f"{row['jaccard']:.2f}"]


@pytest.mark.filterwarnings("ignore:No circuit reaches")
@pytest.mark.parametrize(
    ("strategy", "name"),
    [(Stable(Cut(1.0), samples=5), "threshold"), (Stable(EAP(), samples=5, size=0.3), "removed")],
    ids=repr,
)
def test_the_smallest_faithful_circuit_of_votes(toy, strategy, name):
    result = find(toy, strategy, faithfulness=0.6, examples=4)
    tried = result.metrics["operating_points"]
    assert 1 < len(tried) <= 8
    assert tried[0][name] == pytest.approx({"threshold": 1.0, "removed": 0.7}[name])
    reached = [row for row in tried if row["faithfulness"] >= 0.6]
    best = min(reached, key=lambda row: row["edges"])
    assert len(result.circuit) == best["edges"]
    again = find(toy, strategy.at(best[name]), examples=4)
    assert torch.equal(again.circuit.kept, result.circuit.kept)


# Interruptions


class Interrupt:
    def __init__(self, at):
        self.at, self.seen = at, 0

    def on_progress(self, run, done, total, unit, shown):
        self.seen += 1
        if self.seen == self.at:
            raise KeyboardInterrupt


@pytest.mark.parametrize(
    "strategy",
    [
        Stable(ACDC([0.05, 0.2], screen=0.5), samples=5, vary=["prompts", "order"]),
        Stable(EdgePruning([0.3, 0.5], trainer={"max_steps": 4}), samples=5),
        Stable(Stable(EAP(), samples=5, vary="seed", size=0.2), samples=5),
    ],
    ids=repr,
)
def test_an_interrupted_run_goes_on_within_its_search(strategy, tmp_path, monkeypatch):
    monkeypatch.setattr("circuitkit.strategies.discovery.SECONDS_BETWEEN_CHECKPOINTS", 0.0)
    model, batch, undisturbed = tiny("gpt2"), random_batch(lengths=(6, 7, 5, 7)), Interrupt(None)
    whole = find(model, strategy, batch, [undisturbed])
    at, done, folder = undisturbed.seen // 3, 0, tmp_path / "run"
    for _ in range(2):
        monkeypatch.setattr(memory, "budget", lambda device, more=done: 2**30 + more)  # as free memory changes
        with pytest.raises(KeyboardInterrupt):
            find(model, strategy, batch, [Interrupt(at)], out=folder, resume=True)
        done += at - 1
    rest = Interrupt(None)
    resumed = find(model, strategy, batch, [rest], out=folder, resume=True)
    assert rest.seen == undisturbed.seen - done
    for one, other in zip(resumed.circuits, whole.circuits, strict=True):
        assert one == other
    for name in ("stability", "contested_edges", "edges_tested", "forward_equivalents", "joint_tests"):
        assert resumed.metrics.get(name) == whole.metrics.get(name)
    assert any("resumed" in note for note in resumed.notes)
    assert not any("memory budget" in note for note in resumed.notes)
    assert find(model, strategy, batch, [Interrupt(1)], out=folder, resume=True).circuits == resumed.circuits


def test_killed_and_resumed(tmp_path):
    spec = {"class_path": "stable", "init_args": {"strategy": "eap", "samples": 5, "size": 0.2}}
    whole = Discoverer("cpu", callbacks=[]).run("toy", "ioi", spec, examples=6, sizes=[])
    died = killed.run(spec, tmp_path / "run", 3)
    assert died.returncode == -signal.SIGKILL, died.stderr
    checkpoint = tmp_path / "run" / "checkpoint"
    assert [path.parent.name for path in sorted(checkpoint.rglob("finished.safetensors"))] == ["prompts_1", "prompts_2"]
    finished = killed.run(spec, tmp_path / "run")
    assert finished.returncode == 0, finished.stderr
    assert killed.reports(finished) == 3
    assert Result.load(tmp_path / "run").circuits == whole.circuits


# How it is named, and what is refused


def test_every_way_to_name_the_strategy_has_one_config(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    nested = {"class_path": "acdc", "init_args": {"threshold": 0.3}}
    path = {"class_path": "circuitkit.strategies.acdc.ACDC", "init_args": {"threshold": 0.3, "order": "reverse"}}
    specs_of_it = [{"class_path": "stable", "init_args": {"strategy": one, "samples": 5}} for one in (nested, path)]
    resolved = [specs.resolve("strategies", one) for one in specs_of_it]
    assert resolved[0] == resolved[1] == specs.describe(Stable(ACDC(0.3), samples=5))
    assert resolved[0] == specs.describe(Stable(nested, samples=5))
    assert resolved[0]["init_args"]["strategy"]["init_args"]["editor"] == "incremental"
    assert specs.resolve("strategies", resolved[0]) == resolved[0]
    assert repr(specs.make("strategies", resolved[0])) == "Stable(strategy=ACDC(threshold=0.3), samples=5)"
    discover = ["discover", "--model", "toy", "--task", "ioi", "--examples", "6", "--sizes", "[]"]
    (tmp_path / "config.yaml").write_text(yaml.safe_dump({"strategy": specs_of_it[0]}))
    ways = {
        "yaml": ["--config", "config.yaml"],
        "line": ["--strategy", "stable", "--strategy.samples", "5", "--strategy.strategy", json.dumps(nested)],
    }
    for name, arguments in ways.items():
        assert main([*discover, *arguments, "--out", name]) == 0
        assert Result.load(tmp_path / name).config["strategy"] == resolved[0]
    assert main(["discover", "--config", "yaml/config.yaml", "--out", "again"]) == 0
    assert Result.load(tmp_path / "again").circuits == Result.load(tmp_path / "line").circuits
    short = ["--strategy", "stable", "--strategy.strategy", "eap", "--strategy.size", "0.1", "--out", "short"]
    assert main([*discover, *short]) == 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"samples": 4}, "4 samples cannot reach the confidence 0.95.*at least 5"),
        ({"samples": 0}, "samples=0 is not a positive number"),
        ({"samples": 2.5}, "samples=2.5"),
        ({"fraction": 1.0}, "fraction=1.0 is not between 0 and 1"),
        ({"confidence": 0.4}, "confidence=0.4 is not between 0.5 and 1"),
        ({"confidence": 1}, "confidence=1 "),
        ({"size": 0.0}, "size=0.0"),
        ({"vary": []}, r"vary=\[\].*prompts, templates, seed, order"),
        ({"vary": "weights"}, "vary='weights'"),
        ({"vary": ["seed", "seed"]}, "vary="),
        ({"strategy": "eap", "vary": "order"}, "EAP has no argument 'order'"),
        ({"strategy": "acdcc"}, "no strategy 'acdcc'. Did you mean 'acdc'"),
        ({"strategy": {"class_path": "acdc", "init_args": {"treshold": 1}}}, "no ACDC argument 'treshold'"),
        ({"strategy": 3}, "strategy=3 is no strategy"),
    ],
)
def test_arguments_out_of_range(arguments, said):
    with pytest.raises(UsageError, match=said):
        Stable(**{"strategy": "acdc", **arguments})
    if not isinstance(arguments.get("strategy"), int):
        with pytest.raises(UsageError):
            specs.make("strategies", {"class_path": "stable", "init_args": {"strategy": "acdc", **arguments}})


@pytest.mark.parametrize(
    ("strategy", "task", "said"),
    [
        (Stable(EAP()), "ioi", "EAP ranks edges.*Give size"),
        (Stable(ACDC(0.5), size=0.1), "ioi", "size=0.1 is for rankings, and ACDC chooses"),
        (Stable(EAP(), size=0.1, fraction=0.01), "ioi", "fraction 0.01 of 12 prompts is 0"),
        (Stable(EAP(), size=0.1, vary="templates"), circuitkit.tasks.IOI(template=3), "0.5 of 1 templates"),
        (Stable(EAP(), size=0.1, vary="templates"), random_batch(), "0.5 of 0 templates"),
    ],
    ids=repr,
)
def test_runs_that_it_refuses(toy, strategy, task, said):
    with pytest.raises(UsageError, match=said):
        find(toy, strategy, task)


@pytest.mark.filterwarnings("ignore:One caveat")
def test_a_strategy_whose_number_of_circuits_changes(toy, seen):
    with pytest.raises(CircuitKitError, match="Watched found 1 circuits in one search and 8 in another"):
        find(toy, Stable(Watched(circuits=0)))


def test_a_dry_run_counts_all_searches(toy):
    strategy = Stable(EAP(), samples=20, vary=["prompts", "seed"], size=0.1)
    planned = Discoverer("cpu", callbacks=[]).dry_run(toy, "ioi", strategy, examples=12)
    alone = Discoverer("cpu", callbacks=[]).dry_run(toy, "ioi", EAP(), examples=12)
    assert planned.parts == alone.parts
    assert planned.estimate.search_s[0] > 5 * alone.estimate.search_s[0]  # 30 times, but a few milliseconds vary
