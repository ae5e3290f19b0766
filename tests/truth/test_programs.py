"""Every program, in both families: the model computes it, and the known circuit is what exact ablation finds."""

from functools import cache

import pytest
import torch

from circuitkit.data.accuracy import find_right
from circuitkit.truth.known_circuit import ABLATIONS
from circuitkit.truth.programs import PROGRAMS

FAMILIES = ("gpt2", "llama")
every_model = pytest.mark.parametrize(("name", "family"), [(name, family) for name in PROGRAMS for family in FAMILIES])


@cache
def built(name, family):
    return PROGRAMS[name]().build(family, seed=1, distractors=3)


@every_model
def test_the_model_computes_the_program(name, family):
    known = built(name, family)
    batch = known.task.prompts(known.model.tokenizer, "test", 100, 5)
    with torch.no_grad():
        right = find_right(known.model.logits(known.model.final_stream(batch)), batch)
    assert len(batch) >= 15
    assert right.float().mean() > 0.99


@pytest.mark.parametrize("ablation", ABLATIONS)
@every_model
def test_the_truth_is_what_exact_ablation_of_every_edge_finds(name, family, ablation):
    found = built(name, family).confirm(ablation)
    assert (found.missing, found.extra) == ([], [])
    assert found.agrees
    # No edge is near the line between those that matter and the others
    false = found.effects[~found.truth.kept].max()
    true = torch.stack([*found.joint, found.effects]).amax(0)[found.truth.kept].min()
    assert false < 0.005
    assert true > 0.05
