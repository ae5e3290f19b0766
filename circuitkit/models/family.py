"""What a family of architectures must say, so that its models can be read as circuits."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel

from circuitkit.errors import UsageError
from circuitkit.models.norm import Norm
from circuitkit.models.weights import AttentionWeights


class Family(ABC):
    """Where the parts of a Hugging Face model are and how they are joined.

    One class serves one `model_type` or several alike; it is registered under each (entry point group
    `circuitkit.families`). All tensors it returns are detached views of the model's own parameters.

    The model it describes computes, per layer l, from the stream x: queries, keys and values of `attention_norm`'s
    output (with `head_norms`, then `rotary`); heads that add to the stream; and an MLP on `mlp_norm`'s output, of
    the stream after the heads, or before them where `parallel`.
    """

    layers: int
    heads: int
    kv_heads: int
    width: int
    """D, the residual width."""
    head_width: int
    """E."""
    parallel: bool = False
    """The MLP reads what the attention of its layer reads."""
    mlps: bool = True
    """Whether the blocks have MLPs."""

    def __init__(self, model: PreTrainedModel) -> None:
        self.model = model
        self.config: Any = model.config
        self.layers = self.config.num_hidden_layers
        self.heads = self.config.num_attention_heads
        self.kv_heads = getattr(self.config, "num_key_value_heads", None) or self.heads
        self.width = self.config.hidden_size
        self.head_width = getattr(self.config, "head_dim", None) or self.width // self.heads

    # What every family says

    @abstractmethod
    def attention_weights(self, layer: int) -> AttentionWeights:
        """A layer's attention weights, by head."""

    @abstractmethod
    def mlp_module(self, layer: int) -> nn.Module:
        """A layer's MLP, called with the normed input."""

    @abstractmethod
    def attention_norm(self, layer: int) -> Norm:
        """The norm before a layer's attention."""

    @abstractmethod
    def mlp_norm(self, layer: int) -> Norm:
        """The norm before a layer's MLP."""

    @abstractmethod
    def final_norm(self) -> Norm:
        """The norm before the unembedding."""

    # What most families share

    def embed(self, ids: Tensor) -> Tensor:
        """Token embeddings `[..., T, D]`: what the writer `input` writes."""
        return F.embedding(ids, self.model.get_input_embeddings().weight.detach())  # type: ignore[operator]

    def position_constant(self, positions: Tensor) -> Tensor | None:
        """What positions add to the stream, `[B, T, D]`; a constant of the stream. None: nothing."""
        return None

    def unembedding(self) -> tuple[Tensor, Tensor | None]:
        """Rows of the unembedding `[V, D]`, and its bias `[V]` if it has one."""
        head: Any = self.model.get_output_embeddings()
        return head.weight.detach(), None if head.bias is None else head.bias.detach()

    def rotary(self, positions: Tensor, like: Tensor) -> tuple[Tensor, Tensor] | None:
        """Cosines and sines `[B, T, rotated width]` in the dtype of `like`; None without rotary positions."""
        return None

    def head_norms(self, layer: int) -> tuple[Norm, Norm] | None:
        """Norms of each head's query and key (Qwen 3), before the rotation."""
        return None

    def scale(self, layer: int) -> float:
        """What the products of queries and keys are multiplied by."""
        return float(self.head_width**-0.5)

    def window(self, layer: int) -> int | None:
        """How many positions back a position sees, itself included; None: all."""
        return None

    def mlp_weights(self, layer: int) -> Mapping[str, Tensor]:
        """Parameters and buffers of a layer's MLP, detached."""
        module = self.mlp_module(layer)
        return {name: tensor.detach() for name, tensor in (*module.named_parameters(), *module.named_buffers())}


class ModuleWeights:
    """The default `Weights`: views of the module's own parameters, made once."""

    def __init__(self, family: Family) -> None:
        self._attention = [family.attention_weights(layer) for layer in range(family.layers)]
        self._mlp = [family.mlp_weights(layer) for layer in range(family.layers if family.mlps else 0)]

    def attention(self, layer: int) -> AttentionWeights:
        """A layer's attention weights, all heads at once."""
        return self._attention[layer]

    def mlp(self, layer: int) -> Mapping[str, Tensor]:
        """A layer's MLP parameters by their names inside the MLP module."""
        return self._mlp[layer]


def layer_norm(module: nn.Module) -> Norm:
    """The `Norm` of an `nn.LayerNorm`."""
    if not isinstance(module, nn.LayerNorm):
        raise unsupported(f"a {type(module).__name__} where a LayerNorm was expected")
    return Norm(module.weight.detach(), None if module.bias is None else module.bias.detach(), module.eps, True)


def rms_norm(module: Any) -> Norm:
    """The `Norm` of one of transformers' RMSNorm modules."""
    return Norm(module.weight.detach(), None, module.variance_epsilon, False)


def by_head(weight: Tensor, heads: int) -> Tensor:
    """`[heads * E, D]` as `[heads, E, D]`."""
    split: Tensor = weight.detach().unflatten(0, (heads, -1))
    return split


def bias_by_head(bias: Tensor | None, heads: int) -> Tensor | None:
    """`[heads * E]` as `[heads, E]`."""
    return None if bias is None else bias.detach().unflatten(0, (heads, -1))


def unsupported(what: str) -> UsageError:
    """The error for a configuration that a family cannot represent."""
    return UsageError(f"This model has {what}, which circuitkit cannot represent.", "Choose a model without it.")
