"""A batch of the prompts of an evaluation: runs circuits on it, and measures them."""

from torch import Tensor

from circuitkit.engine.circuit_run import CircuitRun
from circuitkit.engine.prepared_batch import PreparedBatch
from circuitkit.evaluation.measures import Measures


class MeasuredBatch:
    """A batch of prompts, with the full and the ablated model's values on it.

    Args:
        prepared: the batch.

    Attributes:
        prepared: the batch.
        run: runs circuits on it.
        logits: the full model's, at the answer positions.
        full, ablated: the two models' values, float64 `[B]` by measure.
    """

    def __init__(self, prepared: PreparedBatch) -> None:
        self.prepared = prepared
        self.run = CircuitRun(prepared)
        stream = prepared.model.final_stream(prepared.batch)
        self.logits = prepared.model.logits(stream)
        self._measures = Measures(prepared.objective, prepared.batch, self.logits)
        self.full = self._measures.of(self.logits)
        self.ablated = self.of(self._ablated_stream())

    def of(self, stream: Tensor) -> dict[str, Tensor]:
        """Measure the final stream at the answer positions, `[B, A, D]`: float64 `[B]` by measure."""
        return self._measures.of(self.prepared.model.logits(stream))

    def _ablated_stream(self) -> Tensor:
        """Compute the ablated model's final stream from all ablated outputs, without a run."""
        prepared, model = self.prepared, self.prepared.model
        stream = prepared.ablated.sum(0) + model.constant(prepared.context)
        for layer in range(model.graph.layers):
            stream = stream + model.attention_constant(layer)
        shape = (len(prepared.batch), prepared.batch.length, stream.shape[-1])
        return model.at_answers(stream.expand(shape), prepared.batch)
