"""The base class of families: architectures whose models circuitkit can decompose."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel

from circuitkit.circuit.graph import EdgeGraph
from circuitkit.errors import UsageError
from circuitkit.models.linear_layers import bias, is_made, matrix, named_weights
from circuitkit.models.norm import Norm
from circuitkit.models.weights import AttentionWeights


class Family(ABC):
    """Finds the parts of a Hugging Face model, and defines how they are connected.

    One class serves one `model_type` or several similar ones; it is registered under each (entry point group
    `circuitkit.families`). All tensors that it returns are detached views of the model's own parameters, except the
    matrices of quantized layers and of layers with adapters (`linear_layers`).

    What the model's modules know is read from them, and not from the config, whose fields they may ignore.

    Each layer computes, from the stream: queries, keys and values of `attention_norm`'s output (with `head_norms`, then
    `rotary`); heads that add to the stream (through `attention_norm_after`, if `coupled`); and an MLP on `mlp_norm`'s
    output, which reads the stream after the heads, or, if `parallel`, before them, and adds to it (through
    `mlp_norm_after`, if there is one).
    """

    layers: int
    heads: int
    kv_heads: int
    width: int
    """D, the residual width."""
    head_width: int
    """E."""
    parallel: bool = False
    """True if the MLP reads the same stream as the attention of its layer."""
    interleaved: bool = False
    """True if rotary positions turn pairs of neighbouring dimensions, and not the two halves against each other."""
    gated: bool = False
    """True if an MLP multiplies an activated gate with another projection of its input, and projects the product."""
    mlps: bool = True
    """True if the layers have MLPs."""
    causal: bool = True
    """True if a position sees no later one."""
    coupled: bool = False
    """True if a norm follows each layer's attention, so that a change in one head changes the outputs of all of them.
    Such a family has no output bias of the attention: normed with the heads, it would be no constant of the stream."""
    made: bool
    """True if some matrices are made whenever they are asked for: of quantized layers, or with adapters."""

    def __init__(self, model: PreTrainedModel) -> None:
        self.model = model
        self.config: Any = model.config
        self.layers = self.config.num_hidden_layers
        self.heads = self.config.num_attention_heads
        self.kv_heads = getattr(self.config, "num_key_value_heads", None) or self.heads
        self.width = self.config.hidden_size
        self.head_width = getattr(self.config, "head_dim", None) or self.width // self.heads
        self.made = any(is_made(module) for module in model.modules())

    # Defined by every family

    @abstractmethod
    def attention_weights(self, layer: int) -> AttentionWeights:
        """Return a layer's attention weights, by head."""

    @abstractmethod
    def mlp_module(self, layer: int) -> nn.Module:
        """Return a layer's MLP, which takes the normed input."""

    @abstractmethod
    def attention_norm(self, layer: int) -> Norm:
        """Return the norm before a layer's attention."""

    @abstractmethod
    def mlp_norm(self, layer: int) -> Norm:
        """Return the norm before a layer's MLP."""

    @abstractmethod
    def final_norm(self) -> Norm:
        """Return the norm before the unembedding."""

    # The same in most families

    def embed(self, ids: Tensor) -> Tensor:
        """Compute token embeddings `[..., T, D]`, which the writer `input` writes."""
        return F.embedding(ids, self.model.get_input_embeddings().weight.detach())  # type: ignore[operator]

    def position_constant(self, positions: Tensor) -> Tensor | None:
        """Return the position embeddings, a constant of the stream, `[B, T, D]`; None: there are none."""
        return None

    def check_positions(self, graph: EdgeGraph) -> None:
        """Refuse a graph with position embeddings as a writer if there are none.

        Raises:
            UsageError: there are none.
        """
        if graph.inputs > 1 and type(self).position_constant is Family.position_constant:
            raise UsageError(
                f"positions='writer', but a {self.config.model_type} model has no position embeddings.",
                "Leave it out: rotary positions are part of the heads.",
            )

    def unembedding(self) -> tuple[Tensor, Tensor | None]:
        """Return the unembedding `[V, D]`, and its bias `[V]` if it has one."""
        head: Any = self.model.get_output_embeddings()
        return self.matrix(head), self.bias(head)

    def rotary(self, positions: Tensor, like: Tensor) -> tuple[Tensor, Tensor] | None:
        """Compute cosines and sines `[B, T, rotated width]` in the dtype of `like`; None without rotary positions."""
        return None

    def rotary_kind(self, layer: int) -> str | None:
        """Return which rotary positions a layer has, if not all have the same."""
        return None

    def rotary_of_kind(self, kind: str | None, positions: Tensor, like: Tensor) -> tuple[Tensor, Tensor] | None:
        """Compute one kind of rotary positions; arguments and result otherwise as in `rotary`."""
        return self.rotary(positions, like)

    def scales_from(self) -> int | None:
        """Return the length above which positions are scaled by the prompt's length; None: they never are.

        The logits are compared with the model's own again where a run first has longer prompts.
        """
        return None

    def embeddings(self) -> int:
        """Return the number of tokens that have embeddings."""
        table: Any = self.model.get_input_embeddings()
        return int(table.weight.shape[0])

    def head_norms(self, layer: int) -> tuple[Norm, Norm] | None:
        """Return the norms of queries and keys, before the rotation; None: there are none.

        Their weights are `[E]` if each head is normed alone (Qwen 3), or `[H E]` and `[K E]` if all heads of a coupled
        layer are normed together (OLMo 2).
        """
        return None

    def attention_norm_after(self, layer: int) -> Norm | None:
        """Return the norm, not centered, of the sum of a layer's heads; None, if not `coupled`."""
        return None

    def mlp_norm_after(self, layer: int) -> Norm | None:
        """Return the norm of the output of a layer's MLP, which is part of the MLP; None: there is none."""
        return None

    def attention_cap(self, layer: int) -> float | None:
        """Return the soft-capping of the products of queries and keys; None: there is none."""
        return None

    def logit_cap(self) -> float | None:
        """Return the soft-capping of the logits; None: there is none."""
        return None

    def max_positions(self) -> int | None:
        """Return how many positions the model has embeddings for; None: as many as one likes."""
        return None

    def scale(self, layer: int) -> float:
        """Return the factor of the products of queries and keys."""
        return float(self.head_width**-0.5)

    def window(self, layer: int) -> int | None:
        """Return the size of the sliding window: a position and those before it that it sees; None: unlimited."""
        return None

    def mlp_activation(self, mlp: nn.Module) -> nn.Module:
        """Return the activation function of an MLP that `mlp_module` returned, or of a copy of it.

        Raises:
            UsageError: it is not where transformers' models have it.
        """
        for name in ("act", "act_fn", "activation_fn"):
            if isinstance(found := getattr(mlp, name, None), nn.Module):
                return found
        raise unsupported(f"a {type(mlp).__name__} without an activation function of its own")

    def mlp_weights(self, layer: int) -> Mapping[str, Tensor]:
        """Return parameters and buffers of a layer's MLP, detached."""
        return named_weights(self.mlp_module(layer), self.dtype)

    # For subclasses

    @property
    def dtype(self) -> torch.dtype:
        """Return the dtype that the model computes in."""
        return self.model.dtype

    def by_head(self, q: nn.Module, k: nn.Module, v: nn.Module, o: nn.Module) -> AttentionWeights:
        """Return the attention weights of a layer's four linear layers."""
        return AttentionWeights(
            q=self.matrix(q).unflatten(0, (self.heads, -1)),
            k=self.matrix(k).unflatten(0, (self.kv_heads, -1)),
            v=self.matrix(v).unflatten(0, (self.kv_heads, -1)),
            o=self.matrix(o).unflatten(1, (self.heads, -1)).permute(1, 2, 0),
            q_bias=_split(self.bias(q), self.heads),
            k_bias=_split(self.bias(k), self.kv_heads),
            v_bias=_split(self.bias(v), self.kv_heads),
            o_bias=self.bias(o),
        )

    def matrix(self, module: nn.Module) -> Tensor:
        """Return the matrix of a linear layer, `[out, in]`."""
        return matrix(module, self.dtype)

    def bias(self, module: nn.Module) -> Tensor | None:
        """Return the bias of a linear layer, `[out]`, or None."""
        return bias(module, self.dtype)


def layer_norm(module: nn.Module) -> Norm:
    """Convert an `nn.LayerNorm`."""
    if not isinstance(module, nn.LayerNorm):
        raise unsupported(f"a {type(module).__name__} where a LayerNorm was expected")
    return Norm(module.weight.detach(), None if module.bias is None else module.bias.detach(), module.eps, True)


def rms_norm(module: Any) -> Norm:
    """Convert one of transformers' RMSNorm modules."""
    return Norm(module.weight.detach(), None, module.variance_epsilon, False)


def _split(bias: Tensor | None, heads: int) -> Tensor | None:
    return None if bias is None else bias.unflatten(0, (heads, -1))


def unsupported(what: str) -> UsageError:
    """Make the error for a configuration that a family cannot represent."""
    return UsageError(f"This model has {what}, which circuitkit cannot represent.", "Choose a model without it.")
