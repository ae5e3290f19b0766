"""Gemma 3's text models: Gemma 2 with norms of queries and keys, and other rotary positions in layers with windows."""

from torch import Tensor
from transformers import PreTrainedModel

from circuitkit.models.families.gemma2 import Gemma2
from circuitkit.models.rotary import RotaryPositions


class Gemma3(Gemma2):
    """`Gemma3ForCausalLM`."""

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__(model)
        kinds = {self.rotary_kind(layer) for layer in range(self.layers)}
        self._rotaries = {kind: RotaryPositions(self._body.rotary_emb, kind) for kind in kinds}

    def rotary_kind(self, layer: int) -> str:
        """Return the layer's type, `"sliding_attention"` or `"full_attention"`."""
        kind: str = self.config.layer_types[layer]
        return kind

    def rotary_of_kind(self, kind: str | None, positions: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        """Compute cosines and sines over the full width of each head, in the layers of a type."""
        return self._rotaries[str(kind)](positions, like)

    def scales_from(self) -> int | None:
        """Return the length above which positions are scaled by the prompt's length."""
        bounds = [rotary.scales_from for rotary in self._rotaries.values() if rotary.scales_from is not None]
        return min(bounds, default=None)

    def attention_cap(self, layer: int) -> None:
        """Return None: the model's code ignores what its config has."""
