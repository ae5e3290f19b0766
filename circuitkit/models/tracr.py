"""Transformers compiled from RASP programs by tracr (Lindner et al. 2023, arXiv 2301.05062), as a transformers model.

No norms and no biases; learned positions; every position sees all others; ReLU in the MLPs; and an unembedding with a
row per value of the program's output, or a single row if that is a number.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutput


class TracrConfig(PreTrainedConfig):
    """Sizes of a compiled transformer."""

    model_type = "tracr"

    vocab_size: int = 5
    outputs: int = 3
    """The number of logits."""
    hidden_size: int = 41
    num_hidden_layers: int = 4
    num_attention_heads: int = 1
    head_dim: int = 12
    intermediate_size: int = 30
    max_position_embeddings: int = 6
    tie_word_embeddings: bool = False


class TracrMLP(nn.Module):
    """An MLP."""

    def __init__(self, config: TracrConfig) -> None:
        super().__init__()
        self.up = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.act = nn.ReLU()
        self.down = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Compute what the MLP writes, `[B, T, D]`."""
        output: Tensor = self.down(self.act(self.up(x)))
        return output


class TracrLayer(nn.Module):
    """A layer: attention, then the MLP."""

    def __init__(self, config: TracrConfig) -> None:
        super().__init__()
        self.heads = config.num_attention_heads
        width = self.heads * config.head_dim
        self.q, self.k, self.v = (nn.Linear(config.hidden_size, width, bias=False) for _ in range(3))
        self.o = nn.Linear(width, config.hidden_size, bias=False)
        self.mlp = TracrMLP(config)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Compute the stream after the layer, `[B, T, D]`; `mask` is `[B, 1, 1, T]`, False on padding."""
        q, k, v = (one(x).unflatten(-1, (self.heads, -1)).transpose(1, 2) for one in (self.q, self.k, self.v))
        z = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        x = x + self.o(z.transpose(1, 2).flatten(-2))
        return x + self.mlp(x)  # type: ignore[no-any-return]


class TracrLMHeadModel(PreTrainedModel):
    """A compiled transformer with its unembedding."""

    config_class = TracrConfig
    _supports_sdpa = True

    def __init__(self, config: TracrConfig) -> None:
        super().__init__(config)
        self.embed = nn.Embedding(config.vocab_size, config.hidden_size)
        self.positions = nn.Embedding(config.max_position_embeddings, config.hidden_size)
        self.layers = nn.ModuleList(TracrLayer(config) for _ in range(config.num_hidden_layers))
        self.unembed = nn.Linear(config.hidden_size, config.outputs, bias=False)
        self.post_init()  # type: ignore[no-untyped-call]

    def get_input_embeddings(self) -> nn.Module:
        """Return the token embeddings."""
        return self.embed

    def get_output_embeddings(self) -> nn.Module:
        """Return the unembedding."""
        return self.unembed

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        output_hidden_states: bool = False,
        logits_to_keep: int = 0,
        **unused: Any,
    ) -> CausalLMOutput:
        """Compute logits.

        Args:
            input_ids: `[B, T]`.
            attention_mask: `[B, T]`, 0 on padding.
            position_ids: `[B, T]`; by default from 0.
            output_hidden_states: return the stream after the embeddings and after each layer too.
            logits_to_keep: of how many last positions; 0: of all.
            unused: other arguments of transformers' models, such as `use_cache`.

        Returns:
            `logits`, `[B, T, outputs]`, and `hidden_states`.
        """
        if position_ids is None:
            position_ids = torch.arange(input_ids.shape[1], dtype=torch.int64, device=input_ids.device)
        mask = None if attention_mask is None else attention_mask.bool()[:, None, None]
        x = self.embed(input_ids) + self.positions(position_ids)
        streams = [x]
        for layer in self.layers:
            x = layer(x, mask)
            streams.append(x)
        hidden_states: Any = tuple(streams) if output_hidden_states else None
        return CausalLMOutput(logits=self.unembed(x[:, -logits_to_keep:]), hidden_states=hidden_states)


AutoConfig.register(TracrConfig.model_type, TracrConfig, exist_ok=True)
AutoModelForCausalLM.register(TracrConfig, TracrLMHeadModel, exist_ok=True)
