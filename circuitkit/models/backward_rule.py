"""How gradients pass through norms and attention: plainly, or as an attribution method would have it."""

from torch import Tensor

from circuitkit.models.norm import Norm


class BackwardRule:
    """Gradients as they are; subclasses override what they change.

    A rule changes gradients alone: every value stays what it is. A model follows one after `CircuitModel.under(rule)`.
    """

    def norm(self, norm: Norm) -> Norm:
        """The norm to compute with in place of the model's own: before attention, MLP and unembedding, or of heads."""
        return norm

    def softmax(self, scores: Tensor) -> Tensor:
        """The pattern of attention from its masked scores, both `[..., P, T]`."""
        return scores.softmax(-1)

    def projected(self, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values `[heads, ..., T, E]` as they come from their projections."""
        return q, k, v


PLAIN = BackwardRule()
