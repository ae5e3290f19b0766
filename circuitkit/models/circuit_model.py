"""An unchanged transformers model, read as a circuit: heads and MLPs that write to a stream and read from it.

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
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from circuitkit import registry
from circuitkit.errors import CircuitKitError, UsageError
from circuitkit.graph import EdgeGraph
from circuitkit.models.backward_rule import PLAIN, BackwardRule
from circuitkit.models.family import Family, ModuleWeights
from circuitkit.models.fetch import resolve
from circuitkit.models.norm import Norm
from circuitkit.models.weights import Weights
from circuitkit.objective import Logits
from circuitkit.prompts import PromptBatch


@dataclass(frozen=True)
class Context:
    """What the blocks need to know of a batch besides the stream.

    Attributes:
        positions: `[B, T]`.
        visible: for each window (None: all) an additive mask `[B, T, T]`: 0 where a query sees a key. A padded
            position sees itself only, so that it is finite and touches no other.
        rotary: cosines and sines `[B, T, *]`, or None.
    """

    positions: Tensor
    visible: dict[int | None, Tensor]
    rotary: tuple[Tensor, Tensor] | None


class CircuitModel:
    """A model's blocks by head and by MLP, and the graph of its edges.

    Make one with `from_pretrained` or `from_model`. `weights` is where every weight of attention and MLPs comes
    from; a precision policy exchanges it.

    Attributes:
        model: the transformers model, left as it was.
        tokenizer: or None.
        graph: its edges.
        name: what it was loaded from.
        mlp_size: parameters of one MLP.
    """

    def __init__(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase | None, kv: Literal["group", "head"], name: str
    ) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.name = name
        self.family: Family = _family_class(model.config.model_type)(model)
        family = self.family
        self.graph = EdgeGraph(family.layers, family.heads, family.kv_heads, family.parallel, family.mlps, kv)
        self._rule = PLAIN
        self.refresh()

    def refresh(self) -> None:
        """Take the module's parameters anew, after it was moved to another device or dtype."""
        family = self.family
        self.weights: Weights = ModuleWeights(family)
        layers = range(family.layers)
        self._mlps = [_shell(family.mlp_module(layer)) for layer in layers] if family.mlps else []
        self.mlp_size = sum(parameter.numel() for parameter in self._mlps[0].parameters()) if family.mlps else 0
        self._take_norms()

    def _take_norms(self) -> None:
        family, norm = self.family, self._rule.norm
        layers = range(family.layers)
        self._attention_norms = [norm(family.attention_norm(layer)) for layer in layers]
        self._mlp_norms = [norm(family.mlp_norm(layer)) for layer in layers] if family.mlps else []
        of_heads = [family.head_norms(layer) for layer in layers]
        self._head_norms = [norms and (norm(norms[0]), norm(norms[1])) for norms in of_heads]
        self._final_norm = norm(family.final_norm())

    def under(self, rule: BackwardRule) -> Self:
        """This model as it stands, with its weights of the moment, its gradients by a rule."""
        ruled = copy.copy(self)
        ruled._rule = rule
        ruled._take_norms()
        return ruled

    @classmethod
    def from_pretrained(
        cls, name: str | Path, *, kv: Literal["group", "head"] = "group", dtype: torch.dtype | str = torch.float32
    ) -> Self:
        """Load a causal language model and check that it is represented faithfully.

        Args:
            name: `"toy"`, a fetched model's name, a folder, or a name on the Hugging Face hub.
            kv: whether keys and values are read once a group or once a query head.
            dtype: of the weights; a `torch.dtype` or its name.

        Raises:
            UsageError: there is no such model, or its architecture is not supported.
            CircuitKitError: it cannot be read, or fails the parity check.
        """
        source = resolve(str(name))
        wanted = _dtype(dtype)
        try:
            config = AutoConfig.from_pretrained(source, trust_remote_code=False)
        except (OSError, ValueError) as error:
            raise UsageError(
                f"There is no model {str(name)!r}: {_first_line(error)}",
                "Give 'toy', a folder, or a name on the hub; `circuitkit list models` shows what is here.",
            ) from error
        _family_class(config.model_type)
        try:
            model = AutoModelForCausalLM.from_pretrained(source, config=config, dtype=wanted, trust_remote_code=False)
        except Exception as error:  # whatever safetensors, the hub or transformers raise for a damaged folder
            raise CircuitKitError(
                f"The model {str(name)!r} cannot be loaded: {_first_line(error)}", "Download it again."
            ) from error
        try:
            tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=False)
        except Exception:  # a model without a tokenizer is an ordinary case, and transformers has no one error for it
            tokenizer = None
        return cls._checked(model, tokenizer, kv, str(name))

    @classmethod
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
        return cls._checked(model, tokenizer, kv, model.config.name_or_path or type(model).__name__)

    @classmethod
    def _checked(
        cls, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase | None, kv: Literal["group", "head"], name: str
    ) -> Self:
        from circuitkit.models.parity import check_parity

        circuit_model = cls(model, tokenizer, kv, name)
        check_parity(circuit_model)
        return circuit_model

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self.model.device

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of its weights."""
        return self.model.dtype

    def to(self, device: torch.device | str) -> Self:
        """Move the model."""
        self.model.to(device)  # type: ignore[arg-type]
        self.refresh()
        return self

    # The stream

    def context(self, batch: PromptBatch) -> Context:
        """Positions, masks and rotations of a batch."""
        index = torch.arange(batch.length, device=batch.mask.device)
        back = index[:, None] - index  # [T, T]
        windows = {self.family.window(layer) for layer in range(self.family.layers)}
        visible = {}
        for window in windows:
            near = (back >= 0) if window is None else (back >= 0) & (back < window)
            seen = (near & batch.mask[:, None, :]) | (back == 0)
            mask = torch.zeros(seen.shape, dtype=self.dtype, device=seen.device)
            visible[window] = mask.masked_fill_(~seen, torch.finfo(self.dtype).min)
        like = torch.empty(0, dtype=self.dtype, device=batch.mask.device)
        return Context(batch.positions, visible, self.family.rotary(batch.positions, like))

    def embed(self, ids: Tensor) -> Tensor:
        """What `input` writes, `[..., T, D]`."""
        return self.family.embed(ids)

    def constant(self, context: Context) -> Tensor | float:
        """What is in the stream before the first layer besides `input`: `[B, T, D]` or 0."""
        constant = self.family.position_constant(context.positions)
        return 0.0 if constant is None else constant

    def attention_constant(self, layer: int) -> Tensor | float:
        """What a layer's attention adds to the stream whatever its heads do: its output bias `[D]`, or 0."""
        bias = self.weights.attention(layer).o_bias
        return 0.0 if bias is None else bias

    # Heads

    def attention_norm(self, layer: int) -> Norm:
        """The norm before a layer's attention."""
        return self._attention_norms[layer]

    def project(self, layer: int, normed: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values, not yet rotated.

        Args:
            layer: which.
            normed: normed inputs, `[R, ..., T, D]` one for each attention reader of the layer (queries, keys, values
                in the graph's order), or `[1, ..., T, D]`, one for all.

        Returns:
            `[H, ..., T, E]`, and twice `[K, ..., T, E]` (or `[H, ...]`, where heads have inputs of their own).
        """
        weights = self.weights.attention(layer)
        if normed.shape[0] == 1:
            inputs = (normed, normed, normed)
        else:
            readers = self.graph.kv_readers
            inputs = normed.split([self.graph.heads, readers, readers])
        return (
            apply_by_head(inputs[0], weights.q, weights.q_bias),
            apply_by_head(inputs[1], weights.k, weights.k_bias),
            apply_by_head(inputs[2], weights.v, weights.v_bias),
        )

    def turn(self, layer: int, kind: Literal["q", "k"], x: Tensor, rotary: tuple[Tensor, Tensor] | None) -> Tensor:
        """Projected queries or keys as they are compared: normed by head, where the family does, and rotated.

        Args:
            layer, kind: whose.
            x: `[..., B, T, E]`.
            rotary: cosines and sines at these positions (see `Context`).
        """
        if norms := self._head_norms[layer]:
            x = norms[kind == "k"](x)
        return x if rotary is None else rotate(x, *rotary)

    def gather(self, layer: int, q: Tensor, k: Tensor, v: Tensor, visible: Tensor) -> Tensor:
        """What heads gather, `[h, ..., P, E]`.

        Args:
            layer: which.
            q: turned queries `[h, ..., B, P, E]` at some positions.
            k, v: turned keys, and values, `[h or fewer, ..., B, T, E]`; consecutive heads share.
            visible: additive mask `[B, P, T]`.
        """
        share = q.shape[0] // k.shape[0]
        q = q.unflatten(0, (-1, share))  # [k, h / k, ..., P, E]
        scores = (q * self.family.scale(layer)) @ k.unsqueeze(1).mT
        gathered: Tensor = (self._rule.softmax(scores + visible) @ v.unsqueeze(1)).flatten(0, 1)
        return gathered

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, context: Context) -> Tensor:
        """What the heads gather, `[H, ..., T, E]`, from projected queries, keys and values."""
        q, k, v = self._rule.projected(q, k, v)
        q, k = self.turn(layer, "q", q, context.rotary), self.turn(layer, "k", k, context.rotary)
        return self.gather(layer, q, k, v, context.visible[self.family.window(layer)])

    def write(self, layer: int, gathered: Tensor) -> Tensor:
        """What the heads add to the stream, `[H, ..., T, D]`, from what they gathered."""
        o = self.weights.attention(layer).o
        outputs: Tensor = torch.bmm(gathered.flatten(1, -2), o).unflatten(1, gathered.shape[1:-1])
        return outputs

    def heads(self, layer: int, x: Tensor, context: Context) -> Tensor:
        """Outputs of a layer's heads, `[H, ..., T, D]`, from its readers' inputs (see `project`)."""
        q, k, v = self.project(layer, self._attention_norms[layer](x))
        return self.write(layer, self.attend(layer, q, k, v, context))

    # MLPs and logits

    def mlp(self, layer: int, x: Tensor) -> Tensor:
        """An MLP's output from its input, both `[..., D]`."""
        weights = dict(self.weights.mlp(layer))
        output: Tensor = functional_call(self._mlps[layer], weights, (self._mlp_norms[layer](x),))
        return output

    def mlp_again(self, layer: int, x: Tensor) -> Tensor:
        """The same; under autograd it is computed again in the backward pass, whose weights must be those of now.

        So that nothing keeps weights that a policy makes when they are asked for.
        """
        output: Tensor = checkpoint(self.mlp, layer, x, use_reentrant=False, preserve_rng_state=False)
        return output

    def at_answers(self, x: Tensor, batch: PromptBatch) -> Tensor:
        """`[..., B, T, D]` at the answer positions, `[..., B, A, D]`."""
        rows = torch.arange(len(batch), device=x.device)[:, None]
        return x[..., rows, batch.answer_positions.clamp(min=0), :]

    def logits(self, x: Tensor) -> Logits:
        """Logits from the stream at the answer positions, `[..., B, A, D]`."""
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
        """The logits' input on the clean prompts at the answer positions, `[B, A, D]`."""
        *_, (_, _, stream) = self.run(self.embed(batch.clean), self.context(batch))
        return self.at_answers(stream, batch)

    def answer_logits(self, batch: PromptBatch) -> Tensor:
        """The full model's logits on the clean prompts at the answer positions, `[B, A, V]`."""
        batch = batch.to(self.device)
        return self.logits(self.final_stream(batch)).all()


def apply_by_head(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """`x[h] @ weight[h].T + bias[h]`: `[h, ..., D]` or `[1, ..., D]` with `[h, E, D]` to `[h, ..., E]`.

    Where `x` has more heads than `weight`, consecutive ones share (keys and values read once a query head).
    """
    if x.shape[0] == 1:
        flat = None if bias is None else bias.reshape(-1)
        out = nn.functional.linear(x[0], weight.reshape(-1, weight.shape[-1]), flat)
        by_head: Tensor = out.unflatten(-1, (weight.shape[0], -1)).movedim(-2, 0)
        return by_head
    share = x.shape[0] // weight.shape[0]
    rows = x.unflatten(0, (-1, share)).flatten(1, -2)  # [K, H / K * ... * T, D]
    out = torch.bmm(rows, weight.mT) if bias is None else torch.baddbmm(bias[:, None], rows, weight.mT)
    return out.reshape(*x.shape[:-1], -1)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary positions on the first `cos.shape[-1]` dimensions of `x`, halves paired (Su et al. 2021)."""
    width = cos.shape[-1]
    turned, rest = x[..., :width], x[..., width:]
    first, second = turned.chunk(2, dim=-1)
    turned = turned * cos + torch.cat((-second, first), dim=-1) * sin
    return torch.cat((turned, rest), dim=-1) if rest.shape[-1] else turned


def _shell(module: nn.Module) -> nn.Module:
    """A copy that shares parameters and is in evaluation mode, so that the user's module keeps its own mode."""
    shared: dict[int, Any] = {id(tensor): tensor for tensor in (*module.parameters(), *module.buffers())}
    return copy.deepcopy(module, shared).eval()


def _family_class(model_type: str) -> type[Family]:
    known = registry.names("families")
    if model_type not in known:
        raise registry.unknown_name("supported architecture", model_type, known)
    found: type[Family] = registry.load("families", model_type)
    return found


def _dtype(dtype: torch.dtype | str) -> torch.dtype:
    found = getattr(torch, dtype, None) if isinstance(dtype, str) else dtype
    if not isinstance(found, torch.dtype) or not found.is_floating_point:
        raise UsageError(f"There is no floating-point dtype {dtype!r}.", "Choose float32, bfloat16 or float64.")
    return found


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
