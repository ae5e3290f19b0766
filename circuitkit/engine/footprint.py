"""The memory that each use of the engine needs per prompt: what batches are split by, and what a dry run predicts.

Sizes are counted in *vectors* of the residual stream, T D numbers. What autograd keeps of a layer depends on the family
and the backward rule, so it is measured, on one layer and one prompt.
"""

from dataclasses import dataclass

from circuitkit.data.logits import LEAST_BYTES
from circuitkit.data.objectives import Objective
from circuitkit.data.prompt_batch import PromptBatch
from circuitkit.engine import masked_run
from circuitkit.engine.ablation import Ablation, Zero
from circuitkit.engine.attribution import reader_gradients
from circuitkit.engine.memory import Need
from circuitkit.engine.prepared_batch import PreparedBatch
from circuitkit.models.backward_rule import PLAIN, BackwardRule
from circuitkit.models.circuit_model import CircuitModel
from circuitkit.precision.base import PrecisionPolicy

_LOGITS = 3
"""How many tensors of logits the objectives over the whole vocabulary hold at once."""


@dataclass(frozen=True)
class Footprints:
    """The needs of one model under its policy, for prompts like those of `batch`.

    Attributes:
        model, objective, ablation, policy: of the run.
        batch: the longest prompts.
    """

    model: CircuitModel
    batch: PromptBatch
    objective: Objective
    ablation: Ablation
    policy: PrecisionPolicy

    @property
    def vector(self) -> int:
        """Return the bytes of one vector per position of a prompt."""
        return self.batch.length * self.model.family.width * self._item

    @property
    def _item(self) -> int:
        return self.model.dtype.itemsize

    @property
    def logits(self) -> int:
        """Return the bytes of the logits over the vocabulary that the objective computes of a prompt."""
        return self._whole_logits if self.objective.whole_vocabulary else 0

    @property
    def unused_logits(self) -> int:
        """Return the bytes that a cone's plan counts for such logits, if the objective computes none."""
        return 0 if self.objective.whole_vocabulary else self._whole_logits

    @property
    def _whole_logits(self) -> int:
        vocabulary = self.model.family.unembedding()[0].shape[0]
        return _LOGITS * self.batch.answer_positions.shape[1] * vocabulary * max(self._item, LEAST_BYTES)

    def attribution(self, rule: BackwardRule = PLAIN, steps: int = 1, keep: bool = False) -> Need:
        """Count attribution: every batch's memory is free before the next.

        Args:
            rule: the backward rule.
            steps: how many integration steps are computed at once.
            keep: the scores of all prompts are kept, in 16 bits.
        """
        writers = self.model.graph.n_writers
        several = len(next(iter(self.policy.groups(self.model.graph)))) < self.model.graph.n_readers
        kept_apart = writers if several and self.ablation.per_prompt else 0  # one pass per group of readers
        run = reader_gradients.bytes_per_run(self._one(), rule) + self.logits
        edges = len(self.model.graph)
        return Need(
            held={"scores": 2 * edges} if keep else {},
            working={
                "captures": (writers + kept_apart) * self.vector,
                "offsets": self._offsets * self.vector,
                "autograd": run,
                "scores": (1 + several) * edges * self._item,
            },
            extra={"autograd": (steps - 1) * run},
        )

    def masked_run(self, checkpoint: bool = False) -> Need:
        """Count one masked run after the other, each under one mask and with its gradient.

        Args:
            checkpoint: without what autograd keeps of a layer.
        """
        graph = self.model.graph
        captured = (graph.n_writers if self.ablation.per_prompt else 0) + 3  # and the ends of the upstream writers
        kept = masked_run.kept_per_layer(self._one())
        layers = graph.layers * self.vector + kept if checkpoint else graph.layers * kept
        return Need(
            working={
                "captures": captured * self.vector,
                "offsets": self._offsets * self.vector,
                "differences": graph.n_writers * self.vector,
                "inputs": 2 * graph.readers_per_layer * self.vector,
                "autograd": graph.n_writers * self.vector + layers,
                "logits": self.logits,
            }
        )

    def circuit_run(self) -> Need:
        """Count runs of one circuit after another: an upper bound of every circuit's."""
        graph = self.model.graph
        captured = (graph.n_writers if self.ablation.per_prompt else 0) + 1  # and the clean embeddings
        # Where keys and values before the prompts differ are held, there are no differences, which are larger
        return Need(
            held={"captures": captured * self.vector, "streams": (graph.layers + 1) * self.vector},
            working={
                "differences": graph.n_writers * self.vector,
                "inputs": 2 * graph.readers_per_layer * self.vector,
                "logits": self.logits,
            },
        )

    def editor(self, gradients: bool = True) -> Need:
        """Count an incremental search in the full model: an upper bound of every circuit's.

        Args:
            gradients: it estimates effects before it tests.
        """
        graph, family = self.model.graph, self.model.family
        captured = (1 + self.ablation.per_prompt) * graph.n_writers
        heads = (graph.heads + 2 * graph.kv_readers) * family.head_width / family.width
        live = graph.layers * (graph.readers_per_layer + heads + 2 + graph.coupled * graph.heads)
        kept = graph.layers * masked_run.kept_per_layer(self._one()) if gradients else 0
        return Need(
            held={
                "captures": captured * self.vector,
                "live": round(live * self.vector),
                "offsets": self._offsets * self.vector,
            },
            working={"cone": graph.n_writers * self.vector + kept + self.logits},
        )

    def replay(self) -> Need:
        """Count a search by the reference editor."""
        graph = self.model.graph
        captured = (1 + self.ablation.per_prompt) * graph.n_writers
        kept = graph.layers * masked_run.kept_per_layer(self._one())
        return Need(
            held={"captures": captured * self.vector, "offsets": self._offsets * self.vector},
            working={"cone": 2 * graph.n_writers * self.vector + kept + self.logits},
        )

    @property
    def _offsets(self) -> int:
        """Return how many vectors anchored quantization holds: offsets, and the stream before every block."""
        graph = self.model.graph
        mixtures = graph.coupled * graph.layers * graph.heads
        return graph.n_writers + mixtures + len(graph.blocks) if self.policy.anchored else 0

    def _one(self) -> PreparedBatch:
        """Prepare one prompt to measure; nothing is captured for it."""
        return PreparedBatch(self.model, self.batch[:1], self.objective, Zero())
