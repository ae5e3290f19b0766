"""Anchored quantization, equation (2): the offsets that cancel the quantization error on the clean run.

With C_w the clean output of writer w in full precision, f̂_w the node with low-precision weights, and x_w its clean
input in full precision, a node in low precision computes

    o_w(x) = f̂_w(x) + [C_w - f̂_w(x_w)]                                                          (2)

It is exact on the clean run, so that quantization affects only the change that a patch causes. The term in brackets is
the offset.

Coupled heads have an error each as soon as one of them is in low precision, and it depends on which are: theirs is
computed for the precision of the moment.
"""

from functools import partial

import torch
from torch import Tensor

from circuitkit.models.circuit_model import CircuitModel
from circuitkit.models.context import Context
from circuitkit.precision.base import PrecisionPolicy


class CleanErrors:
    """The offsets C_w - f̂_w(x_w) of all writers.

    They are computed per block, when first needed: a search needs them only for blocks with live writers. Of a layer of
    coupled heads, two are held: of all heads in low precision, and of the last mixture of both.

    Args:
        model: under the policy.
        policy: determines the low-precision nodes.
        inputs: outputs of the writers before the first layer on the clean prompts, `[1 or 2, B, T, D]`.
        context: of the batch.
    """

    @torch.no_grad()
    def __init__(self, model: CircuitModel, policy: PrecisionPolicy, inputs: Tensor, context: Context) -> None:
        self._model, self._policy, self._context = model, policy, context
        with policy.full():
            self._streams = [stream for _, _, stream in model.run(inputs, context)]  # after each block of writers
        self._errors: dict[int, Tensor] = {}  # by the number of a block's first writer
        self._mixed: dict[int, tuple[Tensor, Tensor]] = {}  # likewise: which coupled heads are low, and all errors

    @torch.no_grad()
    def of(self, layer: int, mlp: bool) -> Tensor:
        """Return the offsets of a layer's heads `[H, B, T, D]`, or of its MLP `[1, B, T, D]`."""
        graph = self._model.graph
        first = graph.mlp(layer) if mlp else graph.head(layer, 0)
        if first not in self._errors:
            compute = partial(self._compute, layer, mlp)
            with self._policy.full():
                full = compute()
            with self._policy.investigate(()):
                self._errors[first] = full.sub_(compute())
        return self._errors[first]

    @torch.no_grad()
    def of_mixture(self, layer: int, low: Tensor) -> Tensor:
        """Return the offsets of a layer's coupled heads `[H, B, T, D]` in their precision of now.

        Args:
            layer: its number.
            low: which heads are in low precision now, bool `[H]`.
        """
        first = self._model.graph.head(layer, 0)
        if first not in self._mixed or not torch.equal(self._mixed[first][0], low):
            now = self._compute(layer, mlp=False)
            with self._policy.full():
                self._mixed[first] = low.clone(), self._compute(layer, mlp=False).sub_(now)
        return self._mixed[first][1]

    def _compute(self, layer: int, mlp: bool) -> Tensor:
        graph = self._model.graph
        before = layer * (2 if graph.mlps else 1)
        if mlp:
            return self._model.mlp(layer, self._streams[before if graph.parallel else before + 1][None])
        return self._model.heads(layer, self._streams[before][None], self._context)
