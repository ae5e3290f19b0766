"""An unchanged transformers model as a circuit: heads and MLPs that read from the residual stream and write to it.

Leading dimensions are free throughout: `...` stands for hypotheses, integration steps, or nothing.
"""

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from circuitkit.circuit.graph import EdgeGraph
from circuitkit.data.logits import Logits
from circuitkit.data.prompt_batch import PromptBatch
from circuitkit.errors import CircuitKitError, UsageError
from circuitkit.models import parity
from circuitkit.models.attention import Attention, Rotary
from circuitkit.models.backward_rule import PLAIN, BackwardRule
from circuitkit.models.families.base import Family
from circuitkit.models.loading import find_family, load_pretrained
from circuitkit.models.weights import ModuleWeights, Weights
from circuitkit.torch_state import usual_torch_state


@dataclass(frozen=True)
class Context:
    """The inputs of attention and MLPs for a batch, other than the stream.

    Attributes:
        positions: `[B, T]`.
        attention_masks: for each window (None: unlimited) an additive mask `[B, T, T]`, 0 where a query may attend to a
            key. A padded position attends to itself only, so that its values are finite and affect no
            other position.
        rotary: cosines and sines `[B, T, *]`, or None.
    """

    positions: Tensor
    attention_masks: dict[int | None, Tensor]
    rotary: Rotary


class CircuitModel:
    """A model by head and by MLP, and the graph of its edges.

    Make one with `from_pretrained` or `from_model`. All weights of attention and MLPs come from `weights`; a precision
    policy replaces it.

    Attributes:
        model: the transformers model, left as it was.
        tokenizer: or None.
        graph: its edges.
        name: the name or path that it was loaded from.
        mlp_size: parameters of one MLP.
    """

    def __init__(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase | None, kv: Literal["group", "head"], name: str
    ) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.name = name
        self.family: Family = find_family(model.config.model_type)(model)
        family = self.family
        self.graph = EdgeGraph(family.layers, family.heads, family.kv_heads, family.parallel, family.mlps, kv)
        self._rule = PLAIN
        self.refresh()

    @usual_torch_state()
    def refresh(self) -> None:
        """Get the module's parameters again, after it was moved to another device or dtype."""
        family = self.family
        self.check_weights()
        self.weights: Weights = ModuleWeights(family)
        layers = range(family.layers)
        self._mlps = [_copy_sharing_parameters(family.mlp_module(layer)) for layer in layers] if family.mlps else []
        self.mlp_size = sum(parameter.numel() for parameter in self._mlps[0].parameters()) if family.mlps else 0
        self._apply_rule_to_norms()

    def check_weights(self) -> None:
        """Refuse a model without its weights, or with weights that allow no gradients.

        Raises:
            CircuitKitError: a precision policy holds the weights, or could not give them back.
            UsageError: they were made under `torch.inference_mode`.
        """
        for name, parameter in self.model.named_parameters():
            if parameter.is_inference():
                raise UsageError(
                    f"The model was made under torch.inference_mode: its {name} allows no gradients.",
                    "Make it outside of inference_mode, or under torch.no_grad.",
                )
            if parameter.numel() == 0:
                raise CircuitKitError(
                    f"The model has no weights in {name}: a precision policy holds them, or they were lost.",
                    "Wait for the run that uses the policy, or load the model again.",
                )

    def _apply_rule_to_norms(self) -> None:
        family, norm = self.family, self._rule.norm
        layers = range(family.layers)
        self._attention_norms = [norm(family.attention_norm(layer)) for layer in layers]
        self._mlp_norms = [norm(family.mlp_norm(layer)) for layer in layers] if family.mlps else []
        of_heads = [family.head_norms(layer) for layer in layers]
        self._head_norms = [norms and (norm(norms[0]), norm(norms[1])) for norms in of_heads]
        self._final_norm = norm(family.final_norm())

    def under(self, rule: BackwardRule) -> Self:
        """Return a copy of this model with the same weights, whose gradients follow a rule."""
        ruled = copy.copy(self)
        ruled._rule = rule
        ruled._apply_rule_to_norms()
        return ruled

    @classmethod
    @usual_torch_state()
    def from_pretrained(
        cls, name: str | Path, *, kv: Literal["group", "head"] = "group", dtype: torch.dtype | str = torch.float32
    ) -> Self:
        """Load a causal language model, and check that the decomposed model computes the same logits.

        Args:
            name: `"toy"`, a fetched model's name, a folder, or a name on the Hugging Face hub.
            kv: whether keys and values are read once per group or once per query head.
            dtype: of the weights; a `torch.dtype` or its name.

        Raises:
            UsageError: there is no such model, or its architecture is not supported.
            CircuitKitError: it cannot be read, or fails the parity check.
        """
        model, tokenizer = load_pretrained(name, dtype)
        loaded = cls(model, tokenizer, kv, str(name))
        loaded.check_parity()
        return loaded

    @classmethod
    @usual_torch_state()
    def from_model(
        cls,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase | None = None,
        *,
        kv: Literal["group", "head"] = "group",
    ) -> Self:
        """Wrap a model that is in memory, leaving it as it is, after the same parity check.

        Raises:
            UsageError: its architecture is not supported.
            CircuitKitError: it fails the parity check.
        """
        wrapped = cls(model, tokenizer, kv, model.config.name_or_path or type(model).__name__)
        wrapped.check_parity()
        return wrapped

    @torch.no_grad()
    def check_parity(self) -> float:
        """Compare the logits with the transformers model's own on two short prompts; see `parity.check_parity`.

        Raises:
            CircuitKitError: they differ by more than the tolerance.
        """
        longest = getattr(self.family.config, "max_position_embeddings", None) or 8
        batch = parity.parity_batch(self.family.unembedding()[0].shape[0], longest).to(self.device)
        steps = self.run(self.embed(batch.clean), self.context(batch))
        streams = [stream for _, _, stream in steps][:: 1 + self.graph.mlps]
        return parity.check_parity(self.model, batch, streams, self.logits(streams[-1]).all())

    @property
    def device(self) -> torch.device:
        """Return the model's device."""
        return self.model.device

    @property
    def dtype(self) -> torch.dtype:
        """Return the dtype of its weights."""
        return self.model.dtype

    @usual_torch_state()
    def to(self, device: torch.device | str) -> Self:
        """Move the model."""
        self.model.to(device)  # type: ignore[arg-type]
        self.refresh()
        return self

    # The stream

    def context(self, batch: PromptBatch) -> Context:
        """Compute positions, attention masks and rotary positions of a batch."""
        index = torch.arange(batch.length, dtype=torch.int64, device=batch.mask.device)
        back = index[:, None] - index  # [T, T]
        windows = {self.family.window(layer) for layer in range(self.family.layers)}
        masks = {}
        for window in windows:
            near = (back >= 0) if window is None else (back >= 0) & (back < window)
            seen = (near & batch.mask[:, None, :]) | (back == 0)
            mask = torch.zeros(seen.shape, dtype=self.dtype, device=seen.device)
            masks[window] = mask.masked_fill_(~seen, torch.finfo(self.dtype).min)
        like = torch.empty(0, dtype=self.dtype, device=batch.mask.device)
        return Context(batch.positions, masks, self.family.rotary(batch.positions, like))

    def embed(self, ids: Tensor) -> Tensor:
        """Compute what `input` writes, `[..., T, D]`."""
        return self.family.embed(ids)

    def constant(self, context: Context) -> Tensor | float:
        """Return the constant of the stream before the first layer (position embeddings), `[B, T, D]` or 0."""
        constant = self.family.position_constant(context.positions)
        return 0.0 if constant is None else constant

    def attention_constant(self, layer: int) -> Tensor | float:
        """Return the constant that a layer adds to the stream: the output bias of its attention, `[D]` or 0."""
        bias = self.weights.attention(layer).o_bias
        return 0.0 if bias is None else bias

    # Heads, MLPs and logits

    def attention(self, layer: int) -> Attention:
        """Return a layer's attention with its current weights."""
        return Attention(
            self.graph,
            self.weights.attention(layer),
            self._attention_norms[layer],
            self._head_norms[layer],
            self.family.scale(layer),
            self._rule,
        )

    def attention_mask(self, layer: int, context: Context) -> Tensor:
        """Return a layer's additive attention mask, `[B, T, T]`."""
        return context.attention_masks[self.family.window(layer)]

    def heads(self, layer: int, x: Tensor, context: Context) -> Tensor:
        """Compute the outputs of a layer's heads.

        Args:
            layer: which layer.
            x: inputs `[R, ..., T, D]` of the layer's attention readers (queries, keys, values in the graph's order), or
                `[1, ..., T, D]`, one for all.
            context: of the batch.

        Returns:
            `[H, ..., T, D]`.
        """
        return self.attention(layer).run(x, context.rotary, self.attention_mask(layer, context)).outputs

    def mlp(self, layer: int, x: Tensor) -> Tensor:
        """Compute an MLP's output from its input, both `[..., D]`."""
        weights = dict(self.weights.mlp(layer))
        output: Tensor = functional_call(self._mlps[layer], weights, (self._mlp_norms[layer](x),))
        return self._rule.gated_mlp(output) if self.family.gated else output

    def checkpoint_mlp(self, layer: int, x: Tensor) -> Tensor:
        """Compute an MLP's output; under autograd, compute it again in the backward pass.

        Autograd then keeps no weights that a policy makes on request. They must not change before the backward pass.
        """
        output: Tensor = checkpoint(self.mlp, layer, x, use_reentrant=False, preserve_rng_state=False)
        return output

    def at_answers(self, x: Tensor, batch: PromptBatch) -> Tensor:
        """Select the answer positions, `[..., B, A, D]`, from `[..., B, T, D]`."""
        rows = torch.arange(len(batch), dtype=torch.int64, device=x.device)[:, None]
        return x[..., rows, batch.read_positions, :]

    def logits(self, x: Tensor) -> Logits:
        """Compute logits from the stream at the answer positions, `[..., B, A, D]`."""
        return Logits(self._final_norm(x), *self.family.unembedding())

    # The plain run

    def run(self, embedded: Tensor, context: Context) -> Iterator[tuple[slice, Tensor, Tensor]]:
        """Run the model from token embeddings `[B, T, D]`.

        Yields:
            For `input`, each layer's heads and each MLP: the numbers of these writers, their outputs
            `[n, B, T, D]`, and the stream after them `[B, T, D]`.
        """
        graph = self.graph
        stream = embedded + self.constant(context)
        yield slice(0, 1), embedded[None], stream
        for layer in range(graph.layers):
            before = stream
            heads = self.heads(layer, stream[None], context)
            stream = stream + heads.sum(0) + self.attention_constant(layer)
            yield graph.heads_of(layer), heads, stream
            if graph.mlps:
                mlp = self.mlp(layer, before if graph.parallel else stream)
                stream = stream + mlp
                yield slice(graph.mlp(layer), graph.mlp(layer) + 1), mlp[None], stream

    @torch.no_grad()
    def final_stream(self, batch: PromptBatch) -> Tensor:
        """Compute the logits' input on the clean prompts at the answer positions, `[B, A, D]`."""
        *_, (_, _, stream) = self.run(self.embed(batch.clean), self.context(batch))
        return self.at_answers(stream, batch)

    def answer_logits(self, batch: PromptBatch) -> Tensor:
        """Compute the full model's logits on the clean prompts at the answer positions, `[B, A, V]`."""
        batch = batch.to(self.device)
        return self.logits(self.final_stream(batch)).all()


def _copy_sharing_parameters(module: nn.Module) -> nn.Module:
    """Copy a module, with the same parameters, in evaluation mode: the user's module keeps its own mode."""
    shared: dict[int, Any] = {id(tensor): tensor for tensor in (*module.parameters(), *module.buffers())}
    return copy.deepcopy(module, shared).eval()
