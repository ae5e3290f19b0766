"""An unchanged transformers model as a circuit: heads and MLPs that read from the residual stream and write to it.

Leading dimensions are free throughout: `...` stands for hypotheses, integration steps, or nothing.
"""

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, Self

import torch
from torch import Tensor
from torch.func import functional_call
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from circuitkit.circuit.graph import EdgeGraph
from circuitkit.data.logits import Logits
from circuitkit.data.prompt_batch import PromptBatch
from circuitkit.errors import UsageError, cannot_move, quote
from circuitkit.models import parity
from circuitkit.models.attention import Attention, Rotary, attention_norms
from circuitkit.models.backward_rule import PLAIN, BackwardRule
from circuitkit.models.brought import Fingerprint, check_vocabulary, check_weights, fingerprint, unwrap_model
from circuitkit.models.context import Context, make_context
from circuitkit.models.families.base import Family
from circuitkit.models.linear_layers import describe
from circuitkit.models.loading import find_family, load_pretrained
from circuitkit.models.module_copy import copy_mlp, modules_with_hooks
from circuitkit.models.weights import ModuleWeights, Weights
from circuitkit.torch_state import usual_torch_state

Kv = Literal["group", "head"]
Positions = Literal["constant", "writer"]


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
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase | None, kv: Kv, positions: Positions, name: str
    ) -> None:
        self.model = unwrap_model(model)
        self.tokenizer, self.name = tokenizer, name
        self._kv: Kv = kv
        self._positions: Positions = positions
        self._rule = PLAIN
        self._checked: Fingerprint | None = None
        self._checked_length = 0
        self.refresh()

    def __repr__(self) -> str:
        dtype = str(self.dtype).removeprefix("torch.")
        return f"{type(self).__name__}({self.name!r}, kv={self._kv!r}, dtype={dtype!r})"

    @usual_torch_state()
    def refresh(self) -> None:
        """Take the module's parts and weights as they are now.

        Raises:
            UsageError: the module has other layers or heads than when it was wrapped, or cannot be represented.
        """
        self.check_weights()
        family: Family = find_family(self.model.config)(self.model)
        sizes = (family.layers, family.heads, family.kv_heads, family.parallel, family.mlps)
        graph = EdgeGraph(*sizes, kv=self._kv, positions=self._positions, coupled=family.coupled)
        family.check_positions(graph)
        if self._checked is not None and graph != self.graph:
            raise UsageError(
                f"The model has {graph} now, and had {self.graph} when it was wrapped.",
                "Wrap it again: CircuitModel.from_model(model).",
            )
        self.family = family
        self.graph: EdgeGraph = graph
        self.weights: Weights = ModuleWeights(family)
        self._apply_rule()
        self.mlp_size = sum(parameter.numel() for parameter in self._mlps[0].parameters()) if family.mlps else 0

    def check_weights(self) -> None:
        """Refuse a model without its weights, or with weights that allow no gradients.

        Raises:
            CircuitKitError: a precision policy holds the weights, or could not give them back.
            UsageError: they were made under `torch.inference_mode`.
        """
        check_weights(self.model)

    def synchronize(self) -> None:
        """Take the module's weights of this moment; every run begins with this.

        The parity check is repeated if they may have changed since the last check, or the module has forward hooks.
        Under a precision policy, which holds the weights, nothing is done.

        Raises:
            UsageError, CircuitKitError: as `refresh` and `check_parity`.
        """
        if type(self.weights) is not ModuleWeights:
            return
        self.refresh()
        if fingerprint(self.model) != self._checked or modules_with_hooks(self.model):
            self.check_parity()

    @property
    def notes(self) -> list[str]:
        """What a result of this model should say about it: that its weights are dequantized, or include adapters."""
        return describe(self.model)

    def _apply_rule(self) -> None:
        family, rule, norm = self.family, self._rule, self._rule.norm
        layers = range(family.layers if family.mlps else 0)
        self._mlps = [copy_mlp(family.mlp_module(layer), rule, family.mlp_activation) for layer in layers]
        layers = range(family.layers)
        self._attention_norms = [attention_norms(family, layer, norm) for layer in layers]
        self._mlp_norms = [norm(family.mlp_norm(layer)) for layer in layers] if family.mlps else []
        self._mlp_norms_after = [(after := family.mlp_norm_after(layer)) and norm(after) for layer in layers]
        self._final_norm = norm(family.final_norm())

    def under(self, rule: BackwardRule) -> Self:
        """Return a copy of this model with the same weights, whose gradients follow a rule."""
        ruled = copy.copy(self)
        ruled._rule = rule
        ruled._apply_rule()
        return ruled

    @classmethod
    @usual_torch_state()
    def from_pretrained(
        cls,
        name: str | Path,
        *,
        kv: Kv = "group",
        positions: Positions = "constant",
        dtype: torch.dtype | str = torch.float32,
    ) -> Self:
        """Load a causal language model, and check that the decomposed model computes the same logits.

        Args:
            name: of a packaged (`"toy"`) or fetched model, a folder, a GGUF file, or a name on the Hugging Face hub.
            kv: whether keys and values are read once per group or once per query head.
            positions: whether learned position embeddings are a constant of the stream or the writer `positions`.
            dtype: of the weights; a `torch.dtype` or its name.

        Raises:
            UsageError: there is no such model, or its architecture is not supported.
            CircuitKitError: it cannot be read, or fails the parity check.
        """
        model, tokenizer = load_pretrained(name, dtype)
        loaded = cls(model, tokenizer, kv, positions, str(name))
        loaded.check_parity()
        return loaded

    @classmethod
    @usual_torch_state()
    def from_model(
        cls,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase | None = None,
        *,
        kv: Kv = "group",
        positions: Positions = "constant",
    ) -> Self:
        """Wrap a model that is in memory, leaving it as it is, after the same parity check.

        Raises:
            UsageError: its architecture is not supported.
            CircuitKitError: it fails the parity check.
        """
        inner = unwrap_model(model)
        if tokenizer is not None and not isinstance(tokenizer, PreTrainedTokenizerBase):
            raise UsageError(
                f"{quote(tokenizer)} is no tokenizer.", "Give the object: AutoTokenizer.from_pretrained()."
            )
        wrapped = cls(inner, tokenizer, kv, positions, inner.config.name_or_path or type(inner).__name__)
        wrapped.check_parity()
        return wrapped

    @torch.no_grad()
    def check_parity(self, length: int | None = None) -> float:
        """Compare the logits with the transformers model's own on two prompts of unequal length; see `parity`.

        Args:
            length: of the longer prompt, in tokens; by default longer than every window, but at most
                `parity.LONGEST`. Runs with longer prompts check again (`check_prompts`).

        Returns:
            The largest difference, relative to the largest logit.

        Raises:
            CircuitKitError: they differ by more than rounding explains.
        """
        if length is None:
            length = min(max((8, *(bound + 4 for bound in parity.bounds(self.family)))), parity.LONGEST)
        length = min(length, self.family.max_positions() or length)
        batch = parity.parity_batch(self.family.embeddings(), length).to(self.device)
        quantized = any("quantized" in note for note in self.notes)

        def wrap(model: PreTrainedModel) -> parity.Decomposed:
            return type(self)(model, None, self._kv, self._positions, self.name)._parity_run

        difference = parity.check(self.model, self._parity_run, wrap, batch, quantized)
        self._checked, self._checked_length = fingerprint(self.model), length
        return difference

    def _parity_run(self, batch: PromptBatch, streams: bool = False) -> parity.Run:
        """Run the check's left-padded prompts."""
        real = batch.mask
        kept: list[Tensor] = []
        for number, (_, _, stream) in enumerate(self._run_prompts(batch)):
            last = stream
            if streams and number % (1 + self.graph.mlps) == 0:
                kept.append(stream[real])
        positions = torch.arange(batch.length, dtype=torch.int64, device=real.device)
        compared = real & (positions >= batch.length - parity.LONGEST)
        return parity.Run(self.logits(last[compared][None]).all()[0], kept[:-1])

    def check_prompts(self, batch: PromptBatch) -> None:
        """Check before any work that the model can run these prompts, and computes them as the wrapped model does.

        Raises:
            UsageError: a prompt is longer than the model's context, or a token is not in its vocabulary.
            CircuitKitError: the prompts are longer than a window that the parity check has not passed, and fail it.
        """
        check_vocabulary(batch, self.family.embeddings(), self.vocabulary)
        context = self.family.max_positions()
        if context is not None and batch.length > context:
            raise UsageError(
                f"A prompt has {batch.length} tokens, but the model has positions for {context}.",
                "Use shorter prompts.",
            )
        if any(self._checked_length <= bound < batch.length for bound in parity.bounds(self.family)):
            self.check_parity(batch.length)

    @property
    def vocabulary(self) -> int:
        """Return V, the number of tokens that have logits."""
        head: Any = self.model.get_output_embeddings()
        return int(getattr(head, "out_features", 0)) or self.family.unembedding()[0].shape[0]

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
        """Move the model.

        Raises:
            UsageError: there is no such device, or the model's weights are nowhere (torch's `meta` device).
            CircuitKitError: the device's memory is too small.
        """
        try:
            self.model.to(device)  # type: ignore[arg-type]
        except (RuntimeError, AssertionError) as error:
            raise cannot_move(f"The model {self.name!r}", device, error) from error
        self.refresh()
        return self

    # The stream

    def context(self, batch: PromptBatch) -> Context:
        """Compute positions, attention masks and rotary positions of a batch."""
        return make_context(self.family, batch, self.dtype)

    def inputs(self, ids: Tensor, context: Context) -> Tensor:
        """Compute what the writers before the first layer write: `input`, and perhaps `positions`.

        Args:
            ids: of the tokens, `[B, T]`.
            context: of the batch.

        Returns:
            `[1 or 2, B, T, D]`.
        """
        embedded = self.family.embed(ids)
        positions = self.family.position_constant(context.positions) if self.graph.inputs > 1 else None
        return embedded[None] if positions is None else torch.stack([embedded, positions])

    def constant(self, context: Context) -> Tensor | float:
        """Return the constant of the stream before the first layer, `[B, T, D]` or 0.

        These are the position embeddings, unless they are a writer.
        """
        constant = self.family.position_constant(context.positions) if self.graph.inputs == 1 else None
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
            self.family.scale(layer),
            self.family.interleaved,
            self.family.attention_cap(layer),
            self._rule,
        )

    def attention_mask(self, layer: int, context: Context) -> Tensor:
        """Return a layer's additive attention mask, `[B, T, T]`."""
        return context.attention_masks[self.family.window(layer)]

    def rotary(self, layer: int, context: Context) -> Rotary:
        """Return a layer's cosines and sines, `[B, T, *]`, or None."""
        return context.rotary[self.family.rotary_kind(layer)]

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
        return self.attention(layer).run(x, self.rotary(layer, context), self.attention_mask(layer, context)).outputs

    def mlp(self, layer: int, x: Tensor) -> Tensor:
        """Compute an MLP's output from its input, both `[..., D]`."""
        if self.family.made and torch.is_grad_enabled() and x.requires_grad:
            return self.checkpoint_mlp(layer, x)
        return self._mlp(layer, x)

    def _mlp(self, layer: int, x: Tensor) -> Tensor:
        weights = dict(self.weights.mlp(layer))
        output: Tensor = functional_call(self._mlps[layer], weights, (self._mlp_norms[layer](x),))
        output = self._rule.gated_mlp(output) if self.family.gated else output
        after = self._mlp_norms_after[layer]
        return output if after is None else after(output)

    def checkpoint_mlp(self, layer: int, x: Tensor) -> Tensor:
        """Compute an MLP's output; under autograd, compute it again in the backward pass.

        Autograd then keeps no weights that a policy makes on request. They must not change before the backward pass.
        """
        output: Tensor = checkpoint(self._mlp, layer, x, use_reentrant=False, preserve_rng_state=False)
        return output

    def at_answers(self, x: Tensor, batch: PromptBatch) -> Tensor:
        """Select the answer positions, `[..., B, A, D]`, from `[..., B, T, D]`."""
        rows = torch.arange(len(batch), dtype=torch.int64, device=x.device)[:, None]
        return x[..., rows, batch.read_positions, :]

    def logits(self, x: Tensor) -> Logits:
        """Compute logits from the stream at the answer positions, `[..., B, A, D]`."""
        return Logits(self._final_norm(x), *self.family.unembedding(), self.family.logit_cap())

    # The plain run

    def run(self, inputs: Tensor, context: Context) -> Iterator[tuple[slice, Tensor, Tensor]]:
        """Run the model from the output of `inputs`, `[1 or 2, B, T, D]`.

        Yields:
            For the writers before the first layer, each layer's heads and each MLP: the numbers of these writers, their
            outputs `[n, B, T, D]`, and the stream after them `[B, T, D]`.
        """
        graph = self.graph
        stream = inputs.sum(0) + self.constant(context)
        yield slice(0, graph.inputs), inputs, stream
        for layer in range(graph.layers):
            before = stream
            heads = self.heads(layer, stream[None], context)
            stream = stream + heads.sum(0) + self.attention_constant(layer)
            yield graph.heads_of(layer), heads, stream
            if graph.mlps:
                mlp = self.mlp(layer, before if graph.parallel else stream)
                stream = stream + mlp
                yield slice(graph.mlp(layer), graph.mlp(layer) + 1), mlp[None], stream

    def _run_prompts(self, batch: PromptBatch) -> Iterator[tuple[slice, Tensor, Tensor]]:
        context = self.context(batch)
        return self.run(self.inputs(batch.clean, context), context)

    @torch.no_grad()
    def final_stream(self, batch: PromptBatch) -> Tensor:
        """Compute the logits' input on the clean prompts at the answer positions, `[B, A, D]`."""
        for _, _, stream in self._run_prompts(batch):
            last = stream  # only this one is held
        return self.at_answers(last, batch)

    @usual_torch_state()
    def answer_logits(self, batch: PromptBatch) -> Tensor:
        """Compute the full model's logits on the clean prompts at the answer positions, `[B, A, V]`."""
        batch = batch.to(self.device)
        return self.logits(self.final_stream(batch)).all()
