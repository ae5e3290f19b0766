"""From weights in coordinates to GPT-2 and Llama models of transformers'."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, PreTrainedModel

from circuitkit.truth.compiler import CONSTANT, SHARPNESS, Shape, Weights
from circuitkit.truth.steps import TOKEN

FamilyName = Literal["gpt2", "llama"]


class Maker(ABC):
    """Makes the model of one family.

    Args:
        shape, weights: of the program.
        words: of the vocabulary.
        noise: the standard deviation of what is added to every matrix, times the square root of D.
        seed: of the directions of the coordinates, the weights and biases of norms, and the noise.
    """

    learned_positions: bool
    """True if the stream holds the position, from the embeddings on."""
    after_activation: str
    """Part of the name of the matrices that follow the activation function."""

    def __init__(self, shape: Shape, weights: Weights, words: list[str], noise: float, seed: int) -> None:
        self.shape, self.weights, self.words, self.noise = shape, weights, words, noise
        self._generator = torch.Generator().manual_seed(seed)
        ones = torch.ones(shape.width, 1, dtype=torch.float64)
        rows = torch.cat([ones, self._random(shape.width, shape.width - 1)], 1)
        directions = torch.linalg.qr(rows).Q.T[1:]  # [D - 1, D], orthogonal to (1, ..., 1)
        self.basis, self.constant = directions[: shape.size], directions[-1] * CONSTANT

    @abstractmethod
    def empty(self) -> PreTrainedModel:
        """Make the model before its weights are set."""

    @abstractmethod
    def parameters(self) -> dict[str, Tensor]:
        """Return the weights by their names in the model."""

    def make(self) -> PreTrainedModel:
        """Make the model."""
        with torch.random.fork_rng(devices=[]):  # transformers draws weights, which are replaced
            model = self.empty()
        model.load_state_dict({name: self._disturb(name, value).float() for name, value in self.parameters().items()})
        model.eval()
        return model

    def _random(self, *size: int) -> Tensor:
        drawn: Tensor = torch.randn(size, generator=self._generator, dtype=torch.float64)
        return drawn

    def _disturb(self, name: str, value: Tensor) -> Tensor:
        if value.dim() < 2 or not self.noise:
            return value
        size = self.noise / math.sqrt(self.shape.width)
        if self.after_activation in name:
            size /= SHARPNESS  # as its own entries are
        return value + size * self._random(*value.shape)

    def embeddings(self) -> Tensor:
        """Return the token embeddings, `[V, D]`."""
        found: Tensor = self.basis[[self.shape.coordinates[TOKEN, word] for word in self.words]]
        return found

    def norm(self, first: bool, centered: bool) -> tuple[Tensor, Tensor, "Unnorm"]:
        """Draw weight and bias (0 unless `centered`) of a norm.

        Args:
            first: whether it is the one before the first layer's attention, where there is no constant yet.
            centered: whether the norm has a bias.

        Returns:
            Both, `[D]`, and what rewrites matrices to be applied after the norm.
        """
        weight = 0.75 + 0.5 * torch.rand(self.shape.width, generator=self._generator, dtype=torch.float64)
        bias = 0.1 * self._random(self.shape.width) * centered
        square = 1 + self.learned_positions if first else CONSTANT**2 + 2
        return weight, bias, Unnorm(self.basis, weight, bias, math.sqrt(self.shape.width / square))

    def output_bias(self, layer: int) -> Tensor:
        """Return the output bias of a layer's attention: the constant of the stream in the first layer."""
        return self.constant if layer == 0 else torch.zeros_like(self.constant)


class Unnorm:
    """Rewrites matrices of coordinates so that they apply to the norm's output.

    Args:
        basis: the directions of the coordinates, `[K, D]`.
        weight, bias: of the norm, `[D]`.
        scale: what the norm multiplies with.
    """

    def __init__(self, basis: Tensor, weight: Tensor, bias: Tensor, scale: float) -> None:
        self._rewrite: Callable[[Tensor], Tensor] = lambda matrix: matrix @ basis / (weight * scale)
        self._norm_bias = bias

    def __call__(self, matrix: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
        """Rewrite a matrix `[..., K]` and a bias `[...]`: `[..., D]` and `[...]`."""
        rewritten = self._rewrite(matrix)
        return rewritten, bias - rewritten @ self._norm_bias


class GPT2Maker(Maker):
    """Makes a `GPT2LMHeadModel`: learned positions, LayerNorm, biases."""

    learned_positions, after_activation = True, "mlp.c_proj"

    def empty(self) -> PreTrainedModel:
        """See the base class."""
        shape, placement = self.shape, self.shape.placement
        config = GPT2Config(
            vocab_size=len(self.words),
            n_positions=shape.length,
            n_embd=shape.width,
            n_layer=placement.layers,
            n_head=placement.heads,
            n_inner=shape.hidden,
            resid_pdrop=0.0,
            embd_pdrop=0.0,
            attn_pdrop=0.0,
            tie_word_embeddings=False,
            bos_token_id=0,
            eos_token_id=None,
        )
        return GPT2LMHeadModel(config)

    def parameters(self) -> dict[str, Tensor]:
        """See the base class."""
        found = {
            "transformer.wte.weight": self.embeddings(),
            "transformer.wpe.weight": self.basis[list(self.shape.positions)],
        }
        for layer in range(self.shape.placement.layers):
            found |= {f"transformer.h.{layer}.{name}": value for name, value in self._layer(layer).items()}
        weight, bias, unnorm = self.norm(False, False)
        found |= {"transformer.ln_f.weight": weight, "transformer.ln_f.bias": bias}
        found["lm_head.weight"] = unnorm(self.weights.unembedding, bias.new_zeros(()))[0]
        return found

    def _layer(self, layer: int) -> dict[str, Tensor]:
        weights = self.weights
        norm, norm_bias, unnorm = self.norm(layer == 0, True)
        none = torch.zeros_like(weights.q_bias[layer])
        read = torch.stack([weights.q[layer], weights.k[layer], weights.v[layer]])  # [3, H, E, K]
        matrix, bias = unnorm(read, torch.stack([weights.q_bias[layer], weights.k_bias[layer], none]))
        found = {"ln_1.weight": norm, "ln_1.bias": norm_bias}
        found |= {"attn.c_attn.weight": matrix.flatten(0, 2).T, "attn.c_attn.bias": bias.flatten()}
        written = (weights.o[layer] @ self.basis).flatten(0, 1)
        found |= {"attn.c_proj.weight": written, "attn.c_proj.bias": self.output_bias(layer)}
        norm, norm_bias, unnorm = self.norm(False, True)
        matrix, bias = unnorm(weights.mlp_in[layer], weights.mlp_bias[layer])
        found |= {"ln_2.weight": norm, "ln_2.bias": norm_bias, "mlp.c_fc.weight": matrix.T, "mlp.c_fc.bias": bias}
        found |= {"mlp.c_proj.weight": weights.mlp_out[layer] @ self.basis, "mlp.c_proj.bias": 0 * self.constant}
        return found


class LlamaMaker(Maker):
    """Makes a `LlamaForCausalLM`: rotary positions, RMSNorm, gated MLPs whose second factor is 1; with biases."""

    learned_positions, after_activation = False, "mlp.down_proj"

    def empty(self) -> PreTrainedModel:
        """See the base class."""
        shape, placement = self.shape, self.shape.placement
        config: Any = LlamaConfig(
            vocab_size=len(self.words),
            hidden_size=shape.width,
            intermediate_size=shape.hidden,
            num_hidden_layers=placement.layers,
            num_attention_heads=placement.heads,
            num_key_value_heads=placement.heads,
            head_dim=shape.head_width,
            max_position_embeddings=shape.length,
            rope_parameters={"rope_type": "default", "rope_theta": shape.rotary_base},
            attention_bias=True,
            mlp_bias=True,
            tie_word_embeddings=False,
            bos_token_id=0,
            eos_token_id=None,
        )
        return LlamaForCausalLM(config)

    def parameters(self) -> dict[str, Tensor]:
        """See the base class."""
        found = {"model.embed_tokens.weight": self.embeddings()}
        for layer in range(self.shape.placement.layers):
            found |= {f"model.layers.{layer}.{name}": value for name, value in self._layer(layer).items()}
        weight, bias, unnorm = self.norm(False, False)
        found["model.norm.weight"] = weight
        found["lm_head.weight"] = unnorm(self.weights.unembedding, bias.new_zeros(()))[0]
        return found

    def _layer(self, layer: int) -> dict[str, Tensor]:
        weights = self.weights
        norm, _, unnorm = self.norm(layer == 0, False)
        found = {"input_layernorm.weight": norm}
        none = torch.zeros_like(weights.q_bias[layer])
        for kind, bias in (("q", weights.q_bias[layer]), ("k", weights.k_bias[layer]), ("v", none)):
            matrix, rewritten = unnorm(getattr(weights, kind)[layer], bias)
            found[f"self_attn.{kind}_proj.weight"] = matrix.flatten(0, 1)
            found[f"self_attn.{kind}_proj.bias"] = rewritten.flatten()
        found["self_attn.o_proj.weight"] = (weights.o[layer] @ self.basis).flatten(0, 1).T
        found["self_attn.o_proj.bias"] = self.output_bias(layer)
        norm, _, unnorm = self.norm(False, False)
        matrix, bias = unnorm(weights.mlp_in[layer], weights.mlp_bias[layer])
        found |= {"post_attention_layernorm.weight": norm, "mlp.gate_proj.weight": matrix, "mlp.gate_proj.bias": bias}
        found |= {"mlp.up_proj.weight": torch.zeros_like(matrix), "mlp.up_proj.bias": torch.ones_like(bias)}
        found["mlp.down_proj.weight"] = (weights.mlp_out[layer] @ self.basis).T
        found["mlp.down_proj.bias"] = 0 * self.constant
        return found


MAKERS: dict[str, type[Maker]] = {"gpt2": GPT2Maker, "llama": LlamaMaker}
