"""Names found through entry points, and names that have changed."""

from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
import yaml
from support.tiny import random_batch, tiny

import circuitkit
from circuitkit.cli.main import main
from circuitkit.config import registry, specs
from circuitkit.errors import CircuitKitError, UsageError
from circuitkit.precision.pahq import PAHQ

VERSION_0_1_0 = {
    "strategies": {
        "acdc": "circuitkit.strategies.acdc.ACDC",
        "pahq_acdc": "circuitkit.strategies.pahq.PAHQACDC",
        "eap": "circuitkit.strategies.eap.EAP",
        "eap_ig": "circuitkit.strategies.eap_ig.EAPIG",
        "gim": "circuitkit.strategies.gim.GIM",
        "hisp": "circuitkit.strategies.hisp.HISP",
        "edge_pruning": "circuitkit.strategies.edge_pruning.EdgePruning",
        "subnetwork_probing": "circuitkit.strategies.subnetwork_probing.SubnetworkProbing",
        "activation_patching": "circuitkit.strategies.activation_patching.ActivationPatching",
        "random_edges": "circuitkit.strategies.random_edges.RandomEdges",
    },
    "tasks": {"ioi": "circuitkit.tasks.ioi.IOI", "prompt_file": "circuitkit.tasks.prompt_file.PromptFile"},
    "precision": {
        "full": "circuitkit.precision.policy.FullPrecision",
        "per_head": "circuitkit.precision.per_head.PerHeadQuantization",
        "uniform": "circuitkit.precision.per_head.UniformQuantization",
    },
    "objectives": {
        "logit_difference": "circuitkit.objective.LogitDifference",
        "kl": "circuitkit.objective.KLDivergence",
        "probability_difference": "circuitkit.objective.ProbabilityDifference",
        "answer_log_probability": "circuitkit.objective.AnswerLogProbability",
    },
    "ablations": {
        "resample": "circuitkit.engine.ablation.Resample",
        "mean": "circuitkit.engine.ablation.Mean",
        "zero": "circuitkit.engine.ablation.Zero",
    },
}
"""What version 0.1.0 registered: names and class paths by kind (families, which no configuration names, left out)."""
OLD_SPECS = [
    (kind, spec)
    for kind, names in VERSION_0_1_0.items()
    for name, path in names.items()
    for spec in (name, path.rpartition(".")[2], path)
]
"""Every way in which a configuration of version 0.1.0 can name one of these."""
RENAMED = [(kind, old, new) for kind, names in registry._RENAMED.items() for old, new in names.items()]


def test_everything_that_the_package_registers_can_be_loaded() -> None:
    for kind in registry.KINDS:
        assert registry.names(kind)
        for name in registry.names(kind):
            assert registry.class_path(kind, name).startswith("circuitkit.")
            loaded = registry.load(kind, name)
            assert loaded is registry.import_object(registry.class_path(kind, name))


def test_a_typo_lists_the_nearest_names() -> None:
    with pytest.raises(UsageError, match=r"strategy 'acdcc'.*Did you mean 'acdc'"):
        registry.load("strategies", "acdcc")


def test_a_name_registered_twice_is_an_error_that_names_both(monkeypatch: pytest.MonkeyPatch) -> None:
    twice = [EntryPoint("eap", f"{package}:EAP", "circuitkit.strategies") for package in ("one", "two")]
    monkeypatch.setattr(registry, "entry_points", lambda group: twice)
    registry._entries.cache_clear()
    try:
        with pytest.raises(CircuitKitError, match=r"'eap': one:EAP .*two:EAP"):
            registry.names("strategies")
    finally:
        registry._entries.cache_clear()


# Names that have changed


@pytest.mark.parametrize(("kind", "old", "new"), RENAMED)
def test_a_renamed_spec_works_with_a_warning_that_names_the_new_one(kind: str, old: str, new: str) -> None:
    assert new in registry.names(kind)
    assert old not in registry.names(kind)
    with pytest.warns(FutureWarning) as warned:
        made = specs.make(kind, old)
    assert type(made) is registry.load(kind, new)
    (message,) = {str(one.message) for one in warned}
    assert repr(old) in message
    assert repr(new) in message
    with pytest.warns(FutureWarning, match=f"{new!r}"):
        assert specs.resolve(kind, {"class_path": old}) == specs.resolve(kind, new)


@pytest.mark.filterwarnings("ignore:.*is now called:FutureWarning")
@pytest.mark.parametrize(("kind", "spec"), OLD_SPECS)
def test_every_spec_of_version_0_1_0_still_names_a_registered_class(kind: str, spec: str) -> None:
    path = specs.rewrite(kind, spec)["class_path"]
    assert path in {registry.class_path(kind, name) for name in registry.names(kind)}
    assert isinstance(registry.import_object(path), type)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("kind", sorted(VERSION_0_1_0))
def test_current_names_and_class_paths_do_not_warn(kind: str) -> None:
    for name in registry.names(kind):
        path = registry.class_path(kind, name)
        for spec in (name, path, path.rpartition(".")[2]):
            assert specs.rewrite(kind, spec)["class_path"] == path


def test_an_old_name_in_python() -> None:
    model, batch = tiny("gpt2"), random_batch()
    with pytest.warns(FutureWarning, match="precision policy 'per_head' is now called 'pahq'"):
        old = circuitkit.discover(model, batch, "eap", precision="per_head")
    new = circuitkit.discover(model, batch, "eap", precision="pahq")
    assert old.config == new.config
    assert old.circuit == new.circuit
    assert old.config["precision"]["class_path"] == f"{PAHQ.__module__}.PAHQ"


def test_old_names_on_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    command = ["discover", "--model", "toy", "--task", "ioi", "--examples", "4"]
    assert main([*command, "--strategy", "eap", "--precision", "per_head", "--out", "run"]) == 0
    renamed = "The precision policy 'per_head' is now called 'pahq'; the old name will be removed in the next release."
    assert capsys.readouterr().err.splitlines() == [f"circuitkit: {renamed}"]

    Path("own.yaml").write_text("strategy: circuitkit.strategies.activation_patching.ActivationPatching\n")
    assert main([*command, "--config", "own.yaml", "--print_config"]) == 0
    shown, errors = capsys.readouterr()
    assert yaml.safe_load(shown)["strategy"]["class_path"] == registry.class_path("strategies", "edge_patching")
    assert len(errors.splitlines()) == 1
    assert "is now called 'edge_patching'" in errors
