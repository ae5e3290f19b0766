"""A precision policy that changes the module's parameters takes effect, and its end too."""

import pytest
import torch
from support.tiny import random_batch, tiny, tiny_hf

from circuitkit import CircuitModel, Discoverer, PrecisionPolicy
from circuitkit.run.result import Result


class Rounded(PrecisionPolicy):
    """Rounds some parameters to bfloat16, by one of the ways in which a module can be changed; tells nobody."""

    def __init__(self, way: str, part: str) -> None:
        self.way, self.part = way, part
        self.before: dict[str, torch.Tensor] = {}

    def prepare(self, model: CircuitModel) -> None:
        self.model = model
        for name, parameter in model.model.named_parameters():
            if self.part in name:
                self.before[name] = parameter.data.clone()
                self.set(name, parameter.data.bfloat16().to(parameter.dtype))

    def close(self) -> None:
        for name, value in self.before.items():
            self.set(name, value)

    def set(self, name: str, value: torch.Tensor) -> None:
        owner, _, attribute = name.rpartition(".")
        module = self.model.model.get_submodule(owner)
        if self.way == "data":
            getattr(module, attribute).data = value
        elif self.way == "copy_":
            getattr(module, attribute).data.copy_(value)
        else:
            setattr(module, attribute, torch.nn.Parameter(value))


def run(model: CircuitModel, policy: PrecisionPolicy | None) -> Result:
    return Discoverer("cpu", callbacks=[]).run(model, random_batch(), "eap", precision=policy, sizes=(0.5,))


@pytest.mark.parametrize("way", ["data", "copy_", "parameter"])
@pytest.mark.parametrize("part", ["attn", "mlp", "norm", ""])
def test_a_policy_that_changes_parameters_takes_effect(way: str, part: str) -> None:
    """Scores are those of a model with these weights; the evaluation is in full precision."""
    model, hf = tiny("llama"), tiny_hf("llama")
    with torch.no_grad():
        for name, parameter in hf.named_parameters():
            if part in name:
                parameter.copy_(parameter.bfloat16().to(parameter.dtype))
    full, rounded = run(model, None), run(CircuitModel.from_model(hf), None)
    found = run(model, Rounded(way, part))
    assert torch.equal(found.circuit.scores, rounded.circuit.scores)
    assert not torch.equal(found.circuit.scores, full.circuit.scores)
    assert found.evaluations["train"][0].full == full.evaluations["train"][0].full
    again = run(model, None)
    assert torch.equal(again.circuit.scores, full.circuit.scores)
