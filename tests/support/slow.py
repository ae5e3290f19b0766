"""A second implementation of the masked run and of ACDC: plain loops over edges, on the transformers modules.

Nothing is shared with the package but the model: edges are pairs of names, every reader's input is summed edge by
edge, and every head is computed alone through the module's own projections.
"""

import re

import torch
from torch import Tensor
from transformers.models.gptj.modeling_gptj import apply_rotary_pos_emb as turn_pairs
from transformers.models.llama.modeling_llama import rotate_half


def first(owner, *names: str):
    """Return the attribute of the first of these names that there is."""
    return next(getattr(owner, name) for name in names if hasattr(owner, name))


COUPLED = ("gemma2", "gemma3_text", "olmo2")
"""Families with a norm after the attention."""


class SlowModel:
    """Heads and MLPs of a transformers model, one at a time."""

    def __init__(self, model, kv: str = "group") -> None:
        self.model, self.config, self.kv = model, model.config, kv
        self.kind = self.config.model_type
        self.body = model if self.kind == "tracr" else first(model, "transformer", "gpt_neox", "model")
        self.body = getattr(self.body, "decoder", self.body)
        self.layers = list(first(self.body, "h", "layers"))
        self.heads = self.config.num_attention_heads
        self.groups = getattr(self.config, "num_key_value_heads", None) or self.heads
        self.parallel = self.kind in ("gptj", "phi") or (self.kind == "gpt_neox" and self.config.use_parallel_residual)
        self.writers = ["input"]
        self.readers: list[str] = []
        self.before: dict[str, list[str]] = {}
        for layer in range(len(self.layers)):
            early = list(self.writers)
            kv_names = [f"a{layer}.kv{g}" for g in range(self.groups)]
            if kv == "head" or self.groups == self.heads:
                kv_names = [f"a{layer}.h{h}" for h in range(self.heads)]
            readers = [f"a{layer}.h{h}<q>" for h in range(self.heads)]
            readers += [f"{name}<{letter}>" for letter in "kv" for name in kv_names]
            for reader in readers:
                self.before[reader] = early
            self.writers += [f"a{layer}.h{h}" for h in range(self.heads)]
            self.before[f"m{layer}"] = early if self.parallel else list(self.writers)
            self.writers.append(f"m{layer}")
            self.readers += [*readers, f"m{layer}"]
        self.before["logits"] = list(self.writers)
        self.readers.append("logits")
        self.edges = [f"{w}->{r}" for r in self.readers for w in self.before[r]]

    def attention(self, layer: int):
        return (
            self.layers[layer] if self.kind == "tracr" else first(self.layers[layer], "attn", "attention", "self_attn")
        )

    def out(self, layer: int):
        return first(self.attention(layer), "c_proj", "dense", "o_proj", "out_proj", "o")

    def activation(self, layer: int):
        return first(getattr(self.layers[layer], "mlp", self.layers[layer]), "act", "act_fn", "activation_fn")

    def mlp(self, layer: int, x: Tensor) -> Tensor:
        block = self.layers[layer]
        if self.kind == "opt":
            return block.fc2(block.activation_fn(block.fc1(block.final_layer_norm(x))))
        if self.kind == "tracr":
            return block.mlp(x)
        if self.kind in COUPLED:
            before = getattr(block, "pre_feedforward_layernorm", lambda x: x)  # OLMo 2 has none
            return block.post_feedforward_layernorm(block.mlp(before(x)))
        return block.mlp(first(block, "ln_2", "post_attention_layernorm", "input_layernorm", "ln_1")(x))

    def kv_reader(self, layer: int, head: int, letter: str) -> str:
        if self.kv == "head" or self.groups == self.heads:
            return f"a{layer}.h{head}<{letter}>"
        return f"a{layer}.kv{head * self.groups // self.heads}<{letter}>"

    def projected(self, layer: int, letter: str, head: int, x: Tensor) -> Tensor:
        """Query, key or value of one (query) head, `[B, T, E]`."""
        block, index = self.layers[layer], "qkv".index(letter)
        if self.kind == "tracr":
            return getattr(block, letter)(x).chunk(self.heads, -1)[head]
        if self.kind != "olmo2":
            x = first(block, "ln_1", "input_layernorm", "self_attn_layer_norm")(x)
        group = head if letter == "q" else head * self.groups // self.heads
        attention = self.attention(layer)
        if self.kind == "gpt2":
            return attention.c_attn(x).chunk(3, -1)[index].chunk(self.heads, -1)[head]
        if self.kind == "gpt_neox":
            return attention.query_key_value(x).chunk(self.heads, -1)[head].chunk(3, -1)[index]
        if self.kind == "phi3":
            before = (0, self.heads, self.heads + self.groups)[index]
            return attention.qkv_proj(x).chunk(self.heads + 2 * self.groups, -1)[before + group]
        out = getattr(attention, f"{letter}_proj")(x)
        out = out.chunk(self.heads if letter == "q" else self.groups, -1)[group]
        for norm in ("norm", "layernorm"):
            if letter in "qk" and hasattr(attention, f"{letter}_{norm}") and self.kind != "olmo2":
                out = getattr(attention, f"{letter}_{norm}")(out)
        return out

    def normed_together(self, layer: int, letter: str, head: int, inputs: dict[str, Tensor]) -> Tensor:
        """OLMo 2's query or key of one head: scaled by the mean square over all readers of the layer."""
        readers = [
            f"a{layer}.h{h}<q>" if letter == "q" else self.kv_reader(layer, h, letter) for h in range(self.heads)
        ]
        found = {r: self.projected(layer, letter, h, inputs[r]) for h, r in enumerate(readers)}
        own = found[readers[head]]
        width = own.shape[-1]
        mean = sum(x.square().sum(-1, keepdim=True) for x in found.values()) / (width * len(found))
        norm = getattr(self.attention(layer), f"{letter}_norm")
        group = head if letter == "q" else head * self.groups // self.heads
        return own * norm.weight[group * width : (group + 1) * width] / (mean + norm.variance_epsilon).sqrt()

    def rotated(self, layer: int, x: Tensor, positions: Tensor) -> Tensor:
        if self.kind == "gptj":
            sin, cos = self.layers[0].attn.embed_positions[positions].chunk(2, -1)
            width = 2 * cos.shape[-1]
            return torch.cat([turn_pairs(x[..., None, :width], sin, cos)[..., 0, :], x[..., width:]], -1)
        if not hasattr(self.body, "rotary_emb"):
            return x
        kind = {"layer_type": self.config.layer_types[layer]} if self.kind == "gemma3_text" else {}
        cos, sin = self.body.rotary_emb(x, position_ids=positions, **kind)
        turned, rest = x[..., : cos.shape[-1]], x[..., cos.shape[-1] :]
        return torch.cat([turned * cos + rotate_half(turned) * sin, rest], -1)

    def head(self, layer: int, head: int, inputs: dict[str, Tensor], mask: Tensor, positions: Tensor) -> Tensor:
        """Output of one head before a norm that follows the attention, `[B, T, D]`."""
        v = self.projected(layer, "v", head, inputs[self.kv_reader(layer, head, "v")])
        if self.kind == "olmo2":
            q, k = (self.normed_together(layer, letter, head, inputs) for letter in "qk")
        else:
            q = self.projected(layer, "q", head, inputs[f"a{layer}.h{head}<q>"])
            k = self.projected(layer, "k", head, inputs[self.kv_reader(layer, head, "k")])
        q, k = self.rotated(layer, q, positions), self.rotated(layer, k, positions)
        scale, cap = getattr(self.attention(layer), "scaling", q.shape[-1] ** -0.5), None
        if self.kind == "gemma2":
            cap = self.config.attn_logit_softcapping
        window = getattr(self.config, "sliding_window", None)
        kinds = getattr(self.config, "layer_types", None)
        if kinds is not None and kinds[layer] != "sliding_attention":
            window = None
        gathered = torch.zeros_like(q)
        for b in range(q.shape[0]):
            for t in range(q.shape[1]):
                visible = range(q.shape[1] if self.kind == "tracr" else t + 1)
                seen = [s for s in visible if s == t or (mask[b, s] and (window is None or t - s < window))]
                scores = torch.stack([q[b, t] @ k[b, s] * scale for s in seen])
                weights = (scores if cap is None else cap * (scores / cap).tanh()).softmax(0)
                gathered[b, t] = sum(weight * v[b, s] for weight, s in zip(weights, seen, strict=True))
        wide = torch.zeros(*q.shape[:2], self.heads * q.shape[-1], dtype=q.dtype)
        wide[..., head * q.shape[-1] : (head + 1) * q.shape[-1]] = gathered
        return self.out(layer)(wide) - self.out(layer)(torch.zeros_like(wide))

    def normed_after(self, layer: int, outputs: list[Tensor]) -> list[Tensor]:
        """The heads' parts of the norm that follows the attention, if there is one."""
        if self.kind not in COUPLED:
            return outputs
        norm, total = self.layers[layer].post_attention_layernorm, sum(outputs)
        weight = norm.weight if self.kind == "olmo2" else 1 + norm.weight
        scale = (total.square().mean(-1, keepdim=True) + first(norm, "eps", "variance_epsilon")).rsqrt()
        return [output * scale * weight for output in outputs]

    def constants(self, layer: int, positions: Tensor) -> Tensor | float:
        """What every reader up to this layer's attention has in its input besides the writers."""
        total: Tensor | float = self.body.wpe(positions) if self.kind == "gpt2" else 0.0
        if self.kind == "opt":
            total = self.body.embed_positions.weight[positions + 2]
        if self.kind == "tracr":
            total = self.body.positions(positions)
        for before in range(layer):
            bias = self.out(before).bias
            total = total + (0.0 if bias is None else bias)
        return total

    @torch.no_grad()
    def run(
        self, batch, kept: set[str], ablated: dict[str, Tensor] | None, ids: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Logits `[B, T, V]` and every writer's output; removed edges carry `ablated`."""

        def carried(writer: str, reader: str, outputs: dict[str, Tensor]) -> Tensor:
            return outputs[writer] if f"{writer}->{reader}" in kept else ablated[writer]

        return self._run(batch, ids, carried, {})

    @torch.enable_grad()
    def slopes(self, batch, value, differences: dict[str, Tensor], given: dict[str, Tensor]) -> dict[str, float]:
        """Slope of `value` (of the logits) as an edge alone carries more and more of its writer's difference.

        Args:
            given: outputs of some writers in place of what they compute.
        """
        more = {edge: torch.zeros((), dtype=torch.float64, requires_grad=True) for edge in self.edges}

        def carried(writer: str, reader: str, outputs: dict[str, Tensor]) -> Tensor:
            return outputs[writer] + more[f"{writer}->{reader}"] * differences[writer]

        logits, _ = self._run(batch, batch.clean, carried, given)
        slopes = torch.autograd.grad(value(logits), list(more.values()), allow_unused=True)
        return {edge: 0.0 if slope is None else float(slope) for edge, slope in zip(more, slopes, strict=True)}

    def _run(self, batch, ids: Tensor, carried, given: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        outputs = {"input": self.model.get_input_embeddings()(ids), **given}

        def read(reader: str, constant: Tensor | float) -> Tensor:
            total = torch.zeros_like(outputs["input"]) + constant
            for writer in self.before[reader]:
                total = total + carried(writer, reader, outputs)
            return total

        for layer in range(len(self.layers)):
            here = self.constants(layer, batch.positions)
            after = here if self.parallel else self.constants(layer + 1, batch.positions)
            inputs = {r: read(r, here) for r in self.readers if r.startswith(f"a{layer}.")}
            raw = [self.head(layer, head, inputs, batch.mask, batch.positions) for head in range(self.heads)]
            for head, output in enumerate(self.normed_after(layer, raw)):
                if (name := f"a{layer}.h{head}") not in given:
                    outputs[name] = output
            if (name := f"m{layer}") not in given:
                outputs[name] = self.mlp(layer, read(name, after))
        final = read("logits", self.constants(len(self.layers), batch.positions))
        if self.kind != "tracr":
            final = first(self.body, "ln_f", "final_layer_norm", "final_layernorm", "norm")(final)
        logits = self.model.get_output_embeddings()(final)
        cap = getattr(self.config, "final_logit_softcapping", None)
        return logits if cap is None else cap * (logits / cap).tanh(), outputs


def slow_acdc(
    slow: SlowModel, batch, value, ablated, threshold, absolute=False, whole=False, start=None
) -> tuple[set[str], dict[str, float]]:
    """ACDC by its description: kept edges, and each tested edge's effect.

    Args:
        value: from logits `[B, T, V]` to the objective's mean.
        start: the names of the edges to start from; by default all.
    """
    kept = set(slow.edges if start is None else start)
    scores: dict[str, float] = {}

    def number(name: str) -> tuple[int, int]:
        """Later writers have larger keys; the MLP comes after the heads of its layer."""
        if name == "input":
            return (-1, 0)
        layer, _, head = name[1:].partition(".")
        return (int(layer), 1000 if name[0] == "m" else int(re.sub(r"\D", "", head)))

    def reaches(writer: str) -> bool:
        for edge in kept:
            source, reader = edge.split("->")
            if source == writer:
                if reader == "logits":
                    return True
                if any(reaches(owner) for owner in writers_fed_by(reader)):
                    return True
        return False

    def writers_fed_by(reader: str) -> list[str]:
        if reader[0] == "m":
            return [reader]
        layer, letter = reader[1:].split(".")[0], reader[-2]
        heads = range(slow.heads)
        if slow.kind in COUPLED:
            return [f"a{layer}.h{h}" for h in heads]
        return [
            f"a{layer}.h{h}"
            for h in heads
            if reader == f"a{layer}.h{h}<q>" or (letter in "kv" and reader == slow.kv_reader(int(layer), h, letter))
        ]

    def current(without: set[str] = frozenset()) -> float:
        return float(value(slow.run(batch, kept - without, ablated, batch.clean)[0]))

    def goes(effect: float) -> bool:
        return (abs(effect) if absolute else effect) < threshold

    def attention_readers(layer: int) -> list[str]:
        found = [r for r in slow.readers if r.startswith(f"a{layer}.")]
        by_head = lambda r: int(re.search(r"\d+", r.split(".")[1])[0])  # noqa: E731
        return [r for letter in "vkq" for r in sorted((r for r in found if r[-2] == letter), key=by_head, reverse=True)]

    visits: list[tuple[str, bool]] = [("logits", False)]
    for layer in reversed(range(len(slow.layers))):
        visits.append((f"m{layer}", False))
        visits += [(r, True) for r in attention_readers(layer) if whole]
        visits += [(r, False) for r in attention_readers(layer)]
    for reader, together in visits:
        edges = [f"{w}->{reader}" for w in sorted(slow.before[reader], key=number, reverse=True)]
        edges = [edge for edge in edges if edge in kept]
        if reader != "logits" and not any(reaches(owner) for owner in writers_fed_by(reader)):
            if not together:
                kept -= set(edges)
            continue
        if together and edges:
            effect = current(set(edges)) - current()
            if goes(effect):
                kept -= set(edges)
                scores.update(dict.fromkeys(edges, effect))
            continue
        for edge in () if together else edges:
            scores[edge] = current({edge}) - current()
            if goes(scores[edge]):
                kept.discard(edge)
    return kept, scores
