"""The prompts of a split token by token, and what the full model and circuits answer to them, for people to read.

The logits of the whole vocabulary are computed once more of each model that is shown, and dropped.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import chain

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from circuitkit.circuit.circuit import Circuit
from circuitkit.data.logits import Logits
from circuitkit.data.prompt_batch import PromptBatch
from circuitkit.evaluation.evaluation import Evaluation, Point, Ranking
from circuitkit.evaluation.evaluator import Evaluator
from circuitkit.evaluation.measures import GOOD
from circuitkit.evaluation.sizes import choose_edges
from circuitkit.evaluation.token_texts import token_texts

TOP = 5
"""How many of the most probable tokens are kept of each answer."""
LARGEST = 0.2
"""The largest fraction of the edges of a circuit that is shown though it is not faithful."""
_RANKINGS: tuple[Ranking, ...] = ("absolute", "greedy", "signed")

Texts = tuple[str, ...]
Probabilities = tuple[float | None, ...]


@dataclass(frozen=True)
class PromptTexts:
    """A pair of prompts as text, token by token, without padding.

    Attributes:
        clean, corrupted: the tokens of the two prompts.
        answer_positions: the positions in them whose logits predict an answer.
        answers: the tokens that are right, for each answer position; wrong_answers: likewise.
        template: the prompt's label; empty if it has none.
    """

    clean: Texts
    corrupted: Texts
    answer_positions: tuple[int, ...]
    answers: tuple[Texts, ...]
    wrong_answers: tuple[Texts, ...]
    template: str = ""


@dataclass(frozen=True)
class Reply:
    """What a model answers to one prompt, with probabilities over the whole vocabulary.

    Attributes:
        answer: the summed probability of the answers, for each answer position; None where there are none.
        wrong_answer: likewise of the wrong answers.
        top: the most probable tokens at the first answer position, at most `TOP`, the most probable first.
        top_probabilities: their probabilities.
    """

    answer: Probabilities
    wrong_answer: Probabilities
    top: Texts
    top_probabilities: tuple[float, ...]


@dataclass(frozen=True)
class CircuitReplies:
    """What one circuit answers: a point of an evaluation.

    Attributes:
        circuit: the number of the circuit that was found, from 1.
        ranking, fraction, edges: of the point; the ranking `own` stands for the circuit's own edges.
        replies: one per prompt.
    """

    circuit: int
    ranking: Ranking
    fraction: float
    edges: int
    replies: tuple[Reply, ...]

    def point(self, evaluation: Evaluation) -> Point:
        """Return the point of an evaluation that these answers belong to.

        Raises:
            ValueError: it has no such point.
        """
        for point in evaluation.points:
            if (point.ranking, point.fraction, point.edges) == (self.ranking, self.fraction, self.edges):
                return point
        raise ValueError(f"no circuit {self.circuit} of {self.edges} edges ({self.ranking}) was evaluated")


@dataclass(frozen=True, repr=False)
class Answers:
    """What the full model and circuits answer to the prompts of one split; empty if that was not recorded.

    Attributes:
        split: of the prompts.
        prompts: the prompts in order, which is that of `Evaluation.per_prompt`.
        full: what the full model answers to each.
        circuits: what circuits answer: those that chose their edges, with these; of a ranking the smallest circuit that
            was evaluated with a faithfulness of at least `GOOD`, or else the largest of at most `LARGEST` of the edges.
            The full model, which is every ranking's last circuit, is none of them.
    """

    split: str = ""
    prompts: tuple[PromptTexts, ...] = ()
    full: tuple[Reply, ...] = ()
    circuits: tuple[CircuitReplies, ...] = ()

    def __len__(self) -> int:
        return len(self.prompts)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({len(self)} prompts, {len(self.circuits)} circuits)"


class AnswerCollector:
    """Takes down what the full model and circuits answer to the prompts of one split.

    Args:
        evaluator: of the split.
        tokenizer: that of the model; without one, tokens are shown as their numbers.
    """

    def __init__(self, evaluator: Evaluator, tokenizer: PreTrainedTokenizerBase | None) -> None:
        self._evaluator = evaluator
        self._text = token_texts(tokenizer)
        self._circuits: list[CircuitReplies] = []

    @torch.no_grad()
    def add(self, number: int, circuit: Circuit, evaluation: Evaluation) -> None:
        """Add the circuit to show, if there is one; right after its evaluation, it takes no run.

        Args:
            number: of the circuit, from 1.
            circuit: as it was found.
            evaluation: of it, by the evaluator.
        """
        if (point := choose_shown(evaluation)) is not None:
            kept = choose_edges(circuit, point.ranking, point.edges_asked)
            replies = tuple(_reply(self._evaluator.logits(kept), self._text))
            self._circuits.append(CircuitReplies(number, point.ranking, point.fraction, point.edges, replies))

    @torch.no_grad()
    def finish(self) -> Answers:
        """Return the answers, with the full model's."""
        full = self._evaluator.logits()
        prompts = tuple(chain.from_iterable(_read_prompts(batch, self._text) for batch, _ in full))
        return Answers(self._evaluator.split, prompts, tuple(_reply(full, self._text)), tuple(self._circuits))


def choose_shown(evaluation: Evaluation) -> Point | None:
    """Choose the circuit to show: see `Answers.circuits`; None if nothing but random ones and the full model was."""
    if own := evaluation.curve("own"):
        return own[0]
    curves = ([point for point in evaluation.curve(name) if point.fraction < 1] for name in _RANKINGS)
    curve = next(filter(None, curves), None)
    if curve is None:
        return None
    faithful = [point for point in curve if point.faithfulness is not None and point.faithfulness >= GOOD]
    small = [point for point in curve if point.fraction <= LARGEST]
    return [*faithful[:1], *small[-1:], *curve[:1]][0]


def _read_prompts(batch: PromptBatch, text: Callable[[int], str]) -> Iterator[PromptTexts]:
    batch = batch.to("cpu")
    for row in range(len(batch)):
        real = batch.mask[row]
        clean, corrupted = (tuple(map(text, ids[row][real].tolist())) for ids in (batch.clean, batch.corrupted))
        padding = batch.length - len(clean)
        positions = [position - padding for position in batch.answer_positions[row].tolist() if position >= 0]
        right, wrong = (
            tuple(tuple(text(token) for token in some if token >= 0) for some in sets[row].tolist()[: len(positions)])
            for sets in (batch.answers, batch.wrong_answers)
        )
        template = batch.templates[row] if batch.templates else ""
        yield PromptTexts(clean, corrupted, tuple(positions), right, wrong, template)


def _reply(parts: Iterable[tuple[PromptBatch, Logits]], text: Callable[[int], str]) -> Iterator[Reply]:
    """Read the answers of one model off its logits for each batch."""
    for batch, logits in parts:
        whole = logits.all()  # [B, A, V]
        asked = (batch.answer_positions >= 0).sum(-1).tolist()
        for row, positions in enumerate(asked):
            one = whole[row, :positions]  # prompt by prompt, since the next steps make copies
            one = one.to(torch.promote_types(one.dtype, torch.float32))
            log_total = one.logsumexp(-1)
            right, wrong = (
                _sum_probabilities(one, log_total, tokens[row, :positions])
                for tokens in (batch.answers, batch.wrong_answers)
            )
            top = one[0].topk(min(TOP, one.shape[-1]))
            probabilities = (top.values - log_total[0]).exp().tolist()
            yield Reply(right, wrong, tuple(map(text, top.indices.tolist())), tuple(probabilities))


def _sum_probabilities(logits: Tensor, log_total: Tensor, tokens: Tensor) -> Probabilities:
    """Sum the probabilities of the tokens `[A, n]`, given logits `[A, V]` and their logsumexp `[A]`."""
    there = tokens >= 0
    each = (logits.gather(-1, tokens.clamp(min=0)) - log_total[:, None]).exp()
    sums = torch.where(there, each, 0).sum(-1).tolist()
    return tuple(value if some else None for value, some in zip(sums, there.any(-1).tolist(), strict=True))
