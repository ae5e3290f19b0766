"""The live state of an incremental search: what every node reads and writes in the circuit as it stands."""

from dataclasses import dataclass

import torch
from torch import Tensor

from circuitkit.engine.capture import capture
from circuitkit.engine.masked import MaskedRun
from circuitkit.engine.scene import Scene
from circuitkit.graph import Block
from circuitkit.models.circuit_model import apply_by_head


class Positions:
    """The two sets of positions that nodes are needed at: from where the prompts part, or the answers' alone.

    Args:
        scene: whose prompts.
    """

    def __init__(self, scene: Scene) -> None:
        self.scene = scene
        batch = scene.batch
        self._rows = torch.arange(len(batch), device=batch.clean.device)[:, None]
        self._answers = batch.answer_positions.clamp(min=0)
        self.start = min(scene.ablation.starts(batch), int(self._answers.min()))
        context = scene.context
        self._visible = {
            window: (mask[self._rows, self._answers], mask[:, self.start :]) for window, mask in context.visible.items()
        }
        self._rotary = None
        if context.rotary is not None:
            both = [(part[self._rows, self._answers], part[:, self.start :]) for part in context.rotary]
            self._rotary = ((both[0][0], both[1][0]), (both[0][1], both[1][1]))

    def count(self, everywhere: bool) -> int:
        """P, how many positions a prompt has in the set."""
        return self.scene.batch.length - self.start if everywhere else self._answers.shape[1]

    def take(self, x: Tensor, everywhere: bool) -> Tensor:
        """`[..., B, T, *]` at the positions, `[..., B, P, *]`."""
        return x[..., self.start :, :] if everywhere else x[..., self._rows, self._answers, :]

    def answers_of(self, x: Tensor) -> Tensor:
        """`[..., B, P, *]` of the positions from the start, at the answers' alone."""
        return x[..., self._rows, self._answers - self.start, :]

    def put(self, target: Tensor, index: Tensor, x: Tensor, everywhere: bool) -> None:
        """Write `x` `[n, B, P, *]` into `target[index]` `[n, B, T, *]` at the positions."""
        if everywhere:
            target[index, :, self.start :] = x
        else:
            target[index[:, None, None], self._rows, self._answers] = x

    def rotary(self, everywhere: bool) -> tuple[Tensor, Tensor] | None:
        """Cosines and sines at the positions."""
        return None if self._rotary is None else self._rotary[everywhere]

    def visible(self, layer: int, everywhere: bool) -> Tensor:
        """The additive mask's rows at the positions, `[B, P, T]`."""
        return self._visible[self.scene.model.family.window(layer)][everywhere]


@dataclass
class LayerState:
    """One layer's live state; rows of dead nodes mean nothing.

    Attributes:
        inputs: of the attention's readers, `[R, B, T, D]`.
        q: turned queries `[H, B, T, E]`; k: turned keys, v: values, one a reader `[K, B, T, E]`.
        mlp_input: `[B, T, D]`.
    """

    inputs: Tensor
    q: Tensor
    k: Tensor
    v: Tensor
    mlp_input: Tensor


class LiveState:
    """What the nodes of the circuit as it stands read and write, on the prompts of one scene.

    Args:
        scene: model, batch, objective, ablation.
        kept: the starting circuit, bool `[edges]`.

    Attributes:
        differences: o - õ of every writer, `[W, B, T, D]`.
        layers: live state of the layers from the one under search on.
        final: the logits' input at the answer positions, `[B, A, D]`.
        live: which writers reach the logits, bool `[W]`.
        everywhere: which of them are needed at all positions and not at the answers' alone, bool `[W]`.
    """

    @torch.no_grad()
    def __init__(self, scene: Scene, kept: Tensor) -> None:
        self.scene, self.model, self.graph = scene, scene.model, scene.model.graph
        self.positions = Positions(scene)
        full = bool(kept.all())
        with scene.capturing():
            outputs = capture(self.model, scene.embedded, scene.context) if full else MaskedRun(scene).outputs(kept)
        self.differences = outputs.sub_(scene.ablated)
        self.layers: dict[int, LayerState] = {}
        self.final = outputs[0, :, :1]
        self.live = torch.ones(self.graph.n_writers, dtype=torch.bool)
        self.everywhere = self.live.clone()
        self._ablated_streams = self._sum_ablated()

    def _sum_ablated(self) -> list[Tensor]:
        """The ablated model's stream before every block, in the order of `graph.blocks`."""
        model, graph, scene = self.model, self.graph, self.scene
        stream = scene.ablated[0] + model.constant(scene.context)
        streams = []
        for layer in range(graph.layers):
            streams.append(stream)
            after = stream + scene.ablated[graph.heads_of(layer)].sum(0) + model.attention_constant(layer)
            if graph.mlps:
                # The attention's output bias is in the stream of a parallel MLP only from the next layer on
                streams.append(stream if graph.parallel else after)
                after = after + scene.ablated[graph.mlp(layer)]
            stream = after
        return [*streams, stream]

    @torch.no_grad()
    def rebuild(self, kept: Tensor, first: int) -> None:
        """Compute the live state anew from a layer on, from the circuit and the writers before it.

        Args:
            kept: the circuit, bool `[edges]`.
            first: the layer.
        """
        self.look_behind(kept)
        graph = self.graph
        for block, ablated in zip(graph.blocks, self._ablated_streams, strict=True):
            if block.layer < first:
                continue
            matrix = graph.matrix(kept, block)
            if block.kind == "attention":
                self._rebuild_attention(block, matrix, ablated)
            elif block.kind == "mlp" and self.live[graph.mlp(block.layer)]:
                x = self._inputs(block, matrix, ablated)
                self.layers[block.layer].mlp_input = x[0]
                self._wrote([graph.mlp(block.layer)], self.model.mlp(block.layer, x))
            elif block.kind == "logits":
                self.final = self.model.at_answers(self._inputs(block, matrix, ablated)[0], self.scene.batch)

    def _inputs(self, block: Block, matrix: Tensor, ablated: Tensor) -> Tensor:
        """Inputs `[n, B, T, D]` of readers whose rows of the circuit are `matrix` `[n, P]`."""
        used = matrix.any(0).nonzero()[:, 0]
        if 2 * len(used) < block.writers:  # copying a few differences is less than multiplying all
            matrix, differences = matrix[:, used], self.differences[used]
        else:
            differences = self.differences[: block.writers]
        sums = matrix.to(differences) @ differences.flatten(1)
        return sums.view(len(matrix), *differences.shape[1:]).add_(ablated)

    def _wrote(self, writers: list[int], outputs: Tensor) -> None:
        if (offset := self.scene.offset(writers)) is not None:
            outputs = outputs + offset
        self.differences[writers] = outputs - self.scene.ablated[writers]

    def _rebuild_attention(self, block: Block, matrix: Tensor, ablated: Tensor) -> None:
        model, graph, layer = self.model, self.graph, block.layer
        heads = self.live[graph.heads_of(layer)].nonzero()[:, 0]
        state = self.layers.get(layer)
        if state is None:
            shape = self.differences.shape[1:3]
            make = self.differences.new_empty  # what is never written, for nodes that are never live, takes no memory
            width, kv = model.family.head_width, graph.kv_readers
            state = LayerState(
                inputs=make(len(block.readers), *shape, model.family.width),
                q=make(graph.heads, *shape, width),
                k=make(kv, *shape, width),
                v=make(kv, *shape, width),
                mlp_input=make(*shape, model.family.width),
            )
            self.layers[layer] = state
        if not len(heads):
            return
        share = graph.heads // graph.kv_readers
        groups = (heads // share).unique()
        rows = torch.cat([heads, graph.heads + groups, graph.heads + graph.kv_readers + groups])
        inputs = self._inputs(block, matrix[rows], ablated)
        state.inputs[rows] = inputs
        xq, xk, xv = model.attention_norm(layer)(inputs).split([len(heads), len(groups), len(groups)])
        weights, rotary = model.weights.attention(layer), self.scene.context.rotary
        of_group = groups // (graph.kv_readers // graph.kv_heads)
        state.q[heads] = model.turn(layer, "q", project(xq, weights.q, weights.q_bias, heads), rotary)
        state.k[groups] = model.turn(layer, "k", project(xk, weights.k, weights.k_bias, of_group), rotary)
        state.v[groups] = project(xv, weights.v, weights.v_bias, of_group)
        visible = self.scene.context.visible[model.family.window(layer)]
        gathered = model.gather(layer, state.q[heads], state.k[heads // share], state.v[heads // share], visible)
        self._wrote((heads + graph.head(layer, 0)).tolist(), write(gathered, weights.o, heads))

    def look_behind(self, kept: Tensor) -> None:
        """Find out, from the logits backwards, which writers are live and which are needed at all positions."""
        graph = self.graph
        self.live = graph.live_writers(kept)
        self.everywhere = torch.zeros_like(self.live)
        for block in reversed(graph.blocks[:-1]):
            if block.kind == "mlp":
                readers = self.everywhere[graph.mlp(block.layer)][None]
            else:
                heads = graph.heads_of(block.layer)
                groups = self.live[heads].unflatten(0, (graph.kv_readers, -1)).any(1)
                readers = torch.cat([self.everywhere[heads], groups, groups])
            if readers.any():
                self.everywhere[: block.writers] |= graph.matrix(kept, block)[readers].any(0)
        self.everywhere &= self.live

    @property
    def capture_bytes(self) -> int:
        """Bytes of the ablated outputs and of the differences."""
        ablated = self.scene.ablated.untyped_storage().nbytes()
        return ablated + self.differences.untyped_storage().nbytes()

    @property
    def live_bytes(self) -> int:
        """Bytes of inputs, queries, keys and values."""
        parts = [part for state in self.layers.values() for part in vars(state).values()]
        return sum(part.untyped_storage().nbytes() for part in [*parts, *self._ablated_streams])


def project(x: Tensor, weight: Tensor, bias: Tensor | None, which: Tensor) -> Tensor:
    """`apply_by_head` with some heads' weights: `[n, ..., D]` to `[n, ..., E]`."""
    if which.tolist() != list(range(len(weight))):
        weight, bias = weight[which], None if bias is None else bias[which]
    return apply_by_head(x, weight, bias)


def write(gathered: Tensor, o: Tensor, heads: Tensor) -> Tensor:
    """What some heads write, `[n, ..., D]`, from what they gathered `[n, ..., E]`."""
    some = o if len(heads) == len(o) else o[heads]
    outputs: Tensor = torch.bmm(gathered.flatten(1, -2), some).unflatten(1, gathered.shape[1:-1])
    return outputs
