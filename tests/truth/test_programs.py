"""Every program, in both families: the model computes it, and the known circuit is what exact ablation finds."""

from functools import cache

import pytest
import torch

from circuitkit.circuit.circuit import Circuit
from circuitkit.data.accuracy import find_right
from circuitkit.data.objectives import LogitDifference
from circuitkit.engine.ablation import Resample
from circuitkit.engine.circuit_run import CircuitRun
from circuitkit.engine.prepared_batch import PreparedBatch
from circuitkit.errors import UsageError
from circuitkit.truth.confirmation import MATTERS, confirm
from circuitkit.truth.known_circuit import ABLATIONS
from circuitkit.truth.placement import place
from circuitkit.truth.programs import PROGRAMS

FAMILIES = ("gpt2", "llama")
REDUNDANT = {"backup"}
every_model = pytest.mark.parametrize(("name", "family"), [(name, family) for name in PROGRAMS for family in FAMILIES])


@cache
def built(name, family):
    return PROGRAMS[name]().build(family, seed=1, distractors=3)


def accuracy(known):
    batch = known.task.prompts(known.model.tokenizer, "test", 100, 5)
    assert len(batch) >= 90
    with torch.no_grad():
        right = find_right(known.model.logits(known.model.final_stream(batch)), batch)
    return right.float().mean()


@every_model
def test_the_model_computes_the_program(name, family):
    assert accuracy(built(name, family)) > 0.99


@pytest.mark.parametrize("ablation", ABLATIONS)
@every_model
def test_the_truth_is_what_exact_ablation_of_every_edge_finds(name, family, ablation):
    found = built(name, family).confirm(ablation)
    assert (found.missing, found.extra) == ([], [])
    assert found.agrees
    assert (len(found.alternatives) > 1) == (name in REDUNDANT)
    # No edge is near the line between those that matter and the others
    false = found.effects[~found.truth.kept].max()
    true = torch.stack([*found.joint, found.effects]).amax(0)[found.truth.kept].min()
    assert false < MATTERS / 2
    assert true > 5 * MATTERS
    if name not in REDUNDANT:
        assert found.effects[found.truth.kept].min() == pytest.approx(float(true), rel=0.5)


@pytest.mark.parametrize("ablation", ABLATIONS)
@pytest.mark.parametrize("family", FAMILIES)
def test_no_edge_of_a_head_with_a_backup_matters_alone(family, ablation):
    known = built("backup", family)
    found = known.confirm(ablation)
    first, second = (circuit.kept for circuit in known.alternatives(ablation))
    assert found.effects[first ^ second].max() < MATTERS
    assert min(effects[own].min() for effects, own in zip(found.joint, (first, second), strict=True)) > 0.5
    assert int((first ^ second).sum()) == 8


def test_which_edges_matter_depends_on_the_ablation():
    """What is the same in every prompt matters only where it is replaced by nothing."""
    known = built("key_value_lookup", "llama")
    resample, mean, zero = (known.truth(ablation) for ablation in ABLATIONS)
    assert resample == mean
    assert (zero - resample).names() == [name for name in zero if name.startswith("input->a1") and name.endswith("<k>")]


@every_model
def test_distractors_are_no_part_of_the_truth_and_write(name, family):
    plain, distracted = (PROGRAMS[name]().build(family, seed=1, distractors=count) for count in (0, 3))
    assert distracted.truth("zero") == plain.truth("zero")
    batch = plain.task.prompts(plain.model.tokenizer, "train", 4, 0)
    streams = [known.model.final_stream(batch) for known in (plain, distracted)]
    difference = (streams[0] - streams[1]).norm(dim=-1)
    assert difference.min() > 0.1


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", ["indirect_object", "shared_heads"])
def test_noise_in_all_weights_leaves_the_truth_as_it_is(name, family):
    known = PROGRAMS[name]().build(family, seed=2, layers=5, heads=2, distractors=3, noise=0.004)
    assert accuracy(known) > 0.99
    assert known.confirm("resample").agrees
    plain = PROGRAMS[name]().build(family, seed=2, layers=5, heads=2, distractors=3)
    weights = zip(known.model.model.parameters(), plain.model.model.parameters(), strict=True)
    assert all((one != other).any() for one, other in weights if one.dim() > 1)


@pytest.mark.parametrize("family", FAMILIES)
def test_at_24_layers_full_of_distractors(family):
    """Too many edges to try each: those of the truth one by one, and all others together."""
    known = PROGRAMS["induction"]().build(family, layers=24, heads=4, distractors=200, noise=0.004)
    graph = known.model.graph
    assert len(graph) > 15_000
    assert accuracy(known) > 0.99
    truth = known.truth("resample")
    alone = truth.kept
    batch = known.task.prompts(known.model.tokenizer, "train", 8, 0)
    run = CircuitRun(PreparedBatch(known.model, batch, LogitDifference(), Resample()))
    full, ablated, found = (run.values(kept).mean() for kept in (alone | True, alone & False, alone))
    assert (found - full) / (ablated - full) < 0.05
    for edge in alone.nonzero()[:, 0]:
        without = torch.ones_like(alone)
        without[edge] = False
        assert (run.values(without).mean() - full) / (ablated - full) > 5 * MATTERS


@pytest.mark.parametrize("family", FAMILIES)
def test_the_same_seed_gives_the_same_weights_and_another_seed_other_ones(family):
    one, same, other = (PROGRAMS["reverse"]().build(family, seed=seed, noise=0.01) for seed in (1, 1, 2))
    for first, second, third in zip(*(known.model.model.parameters() for known in (one, same, other)), strict=True):
        assert torch.equal(first, second)
        assert not torch.equal(first, third) or len(first.unique()) <= 2  # biases that are 0 everywhere
    assert one.truth("zero") == same.truth("zero")


def test_an_unread_edge_is_not_called_known():
    """The confirmation itself can fail: with an edge too few, and with one too many."""
    known = built("induction", "gpt2")
    batch = known.task.prompts(known.model.tokenizer, "train", 8, 0)
    names = known.truth("resample").names()
    graph = known.model.graph
    few, many = (Circuit.from_names(graph, some) for some in (names[1:], [*names, "m0->logits"]))
    assert confirm(known.model, batch, "resample", few, [few]).extra == names[:1]
    assert confirm(known.model, batch, "resample", many, [many]).missing == ["m0->logits"]


@pytest.mark.parametrize("family", FAMILIES)
def test_the_callers_torch_state_makes_no_difference_and_stays(family):
    expected = PROGRAMS["induction"]().build(family).model.model.state_dict()
    before, dtype = torch.get_rng_state(), torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        with torch.inference_mode():
            found = PROGRAMS["induction"]().build(family).model.model.state_dict()
        assert torch.get_default_dtype() == torch.float64
    finally:
        torch.set_default_dtype(dtype)
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(found[name], value) for name, value in expected.items())


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"family": "gpt3"}, "no family 'gpt3'"),
        ({"layers": 1}, "does not fit into 1 layers"),
        ({"heads": 0}, "does not fit into 0 heads"),
        ({"distractors": -1}, "distractors=-1"),
        ({"noise": 2}, "noise=2"),
        ({"seed": None}, "seed None"),
        ({"seed": 1.5}, "seed 1.5"),
        ({"seed": 2**70}, "seed 1180591620717411303424"),
    ],
)
def test_arguments_that_do_not_fit(arguments, said):
    with pytest.raises(UsageError, match=said):
        PROGRAMS["induction"]().build(**arguments)


def test_an_ablation_without_a_truth():
    with pytest.raises(UsageError, match="'noise'"):
        built("induction", "gpt2").truth("noise")


def test_steps_come_after_what_they_read():
    steps = PROGRAMS["indirect_object"]().steps()
    for seed in range(20):
        nodes = place(steps, 7, 2, seed).nodes
        layers = [nodes[name].layer for name in ("previous", "duplicate", "s_inhibition", "name_mover")]
        assert layers == sorted(set(layers))
