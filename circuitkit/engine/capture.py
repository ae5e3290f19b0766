"""Every writer's output on a plain run, and what low precision gets wrong there."""

from functools import partial

import torch
from torch import Tensor

from circuitkit.models.circuit_model import CircuitModel, Context
from circuitkit.precision.policy import PrecisionPolicy


@torch.no_grad()
def capture(model: CircuitModel, embedded: Tensor, context: Context) -> Tensor:
    """Run the model and keep what every writer adds to the stream.

    Args:
        model: whose weights are used as they stand (under its policy).
        embedded: token embeddings `[B, T, D]`: the output of `input`.
        context: of the batch.

    Returns:
        `[W, B, T, D]`, the largest thing the engine holds.
    """
    outputs = embedded.new_empty(model.graph.n_writers, *embedded.shape)
    for writers, output, _ in model.run(embedded, context):
        outputs[writers] = output
    return outputs


class CleanErrors:
    """C_w - f̂_w(x_w) of every writer: its output in full precision, less that in low precision from the same input.

    They are computed a block at a time, when they are first asked for: a search asks only for blocks with live writers.

    Args:
        model: under the policy.
        policy: whose low-precision nodes are meant.
        embedded: token embeddings of the clean prompts, `[B, T, D]`.
        context: of the batch.
    """

    @torch.no_grad()
    def __init__(self, model: CircuitModel, policy: PrecisionPolicy, embedded: Tensor, context: Context) -> None:
        self._model, self._policy, self._context = model, policy, context
        with policy.full():
            self._streams = [stream for _, _, stream in model.run(embedded, context)]  # after each block of writers
        self._errors: dict[int, Tensor] = {}  # by the number of a block's first writer

    @torch.no_grad()
    def of(self, layer: int, mlp: bool) -> Tensor:
        """Those of a layer's heads `[H, B, T, D]`, or of its MLP `[1, B, T, D]`."""
        graph = self._model.graph
        first = graph.mlp(layer) if mlp else graph.head(layer, 0)
        if first not in self._errors:
            compute = partial(self._compute, layer, mlp)
            with self._policy.full():
                full = compute()
            with self._policy.investigate(()):
                self._errors[first] = full.sub_(compute())
        return self._errors[first]

    def _compute(self, layer: int, mlp: bool) -> Tensor:
        graph = self._model.graph
        before = layer * (2 if graph.mlps else 1)
        if mlp:
            return self._model.mlp(layer, self._streams[before if graph.parallel else before + 1][None])
        return self._model.heads(layer, self._streams[before][None], self._context)
