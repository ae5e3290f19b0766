"""The prompts of a page: what the full model and circuits answer to each, and which of them a circuit fails on.

Circuits that were measured on the same prompts share them. The data are compact, since a page has up to 64 prompts for
each of 24 circuits: texts are numbers in one list, and probabilities are whole thousandths.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any, Literal

import numpy as np

from circuitkit.evaluation.answers import Answers, PromptTexts, Reply, choose_shown
from circuitkit.evaluation.evaluation import Evaluation, Point
from circuitkit.evaluation.measures import ACCURACY
from circuitkit.page.circuits import name_circuit
from circuitkit.page.content import Content
from circuitkit.report.figures import format_interval

MOST_CIRCUITS, MOST_PROMPTS = 24, 64
"""How many circuits a page shows, and how many prompts of each."""
_MOST_TOKENS = 40_000  # of all prompts
_LONGEST_PROMPT, _LONGEST_TEXT, _LONGEST_SET = 400, 60, 4
_MOST_TEMPLATES = 100
STATES = (
    "fails",
    "other token",
    "both wrong",
    "right, model wrong",
    "right, other token",
    "right",
    "same token",
    "not known",
)
"""What can be said of a circuit's answer beside the model's; the order in which prompts are listed."""
FAILURES = 2
"""The first so many of them are failures."""
_FAILS, _OTHER, _BOTH_WRONG, _ONLY_RIGHT, _RIGHT_OTHER, _RIGHT, _SAME, _UNKNOWN = range(len(STATES))


def prompt_section(content: Content) -> dict[str, Any] | None:
    """Describe the prompts of the loaded results, for the template and for `prompts.js`.

    Returns:
        None if no circuit was evaluated; otherwise plain data:

        - `texts`: every text that is shown of a token or a template, safe to look at.
        - `sets`: of prompts. `prompts` has mappings with `number`, `label` (a text), `tokens` (texts), `skipped` (how
          many tokens in front are left out), `changed` (a token's place and the corrupted prompt's text there) and
          `asked` (a place, right answers, how many more, wrong answers, how many more). `full` has the full model's
          replies, `values` its value of the objective.
        - `circuits`: `name`, `set` (a number), `says` (sentences), `templates` (rows of a table) and `rows`, in the
          order in which they are listed: the prompt's number in the set, a number of `STATES`, value, faithfulness,
          reply.
        - a reply is None, or the probabilities of answers and of wrong answers and a list of the most probable tokens:
          a text, its probability, and 1 for an answer, 2 for a wrong one.
        - `states`, `failures`: see the module; `left`: how many circuits are left out.
    """
    found = _list_circuits(content)
    if not found:
        return None
    shown = found[:MOST_CIRCUITS]
    texts = _Texts()
    groups: dict[Any, list[_Shown]] = {}
    for one in shown:
        groups.setdefault(one.prompts_key, []).append(one)
    sets = [_choose_prompts(some, _MOST_TOKENS // len(groups)) for some in groups.values()]
    numbers = {key: number for number, key in enumerate(groups)}
    return {
        "circuits": [one.describe(numbers[one.prompts_key], sets[numbers[one.prompts_key]], texts) for one in shown],
        "sets": [some[0].describe_prompts(kept, texts) for some, kept in zip(groups.values(), sets, strict=True)],
        "texts": texts.found,
        "states": STATES,
        "failures": FAILURES,
        "left": len(found) - len(shown),
    }


def visible(text: str) -> str:
    """Return a text with what cannot be seen, or changes the direction of writing, as an escape, as in Python."""
    shown = text if len(text) <= _LONGEST_TEXT else f"{text[: _LONGEST_TEXT - 1]}…"
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in shown)


class _Texts:
    """Texts that are used many times, each with a number."""

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}

    @property
    def found(self) -> list[str]:
        return list(self._numbers)

    def __call__(self, text: str) -> int:
        return self._numbers.setdefault(visible(text), len(self._numbers))


@dataclass(frozen=True, eq=False)
class _Shown:
    """A circuit whose answers are shown.

    Attributes:
        name: what tells it from the others.
        evaluation: on the prompts that are shown.
        point: the circuit.
        answers: of its run; empty in those of an earlier version.
        replies: the circuit's; empty where there are none of it.
    """

    name: str
    evaluation: Evaluation
    point: Point
    answers: Answers
    replies: tuple[Reply, ...]

    @property
    def prompts_key(self) -> Any:
        """Return what is equal for circuits that can share prompts."""
        full = self.evaluation.per_prompt("full")
        return self.answers.prompts, self.answers.full, self.evaluation.objective, full.tobytes()

    @property
    def states(self) -> list[int]:
        """Return a number of `STATES` for every prompt."""
        if ACCURACY in self.evaluation.values:
            full, own = (self.evaluation.per_prompt(which, ACCURACY) == 1 for which in self._ends)
            right = np.where(self._same_token(), _RIGHT, _RIGHT_OTHER) if self.replies else _RIGHT
            found = np.where(full, np.where(own, right, _FAILS), np.where(own, _ONLY_RIGHT, _BOTH_WRONG))
            return [int(state) for state in found]
        if self.replies:
            return [_SAME if same else _OTHER for same in self._same_token()]
        return [_UNKNOWN] * self.evaluation.prompts

    @property
    def _ends(self) -> tuple[Literal["full"], Point]:
        return "full", self.point

    def _same_token(self) -> list[bool]:
        """Tell of every prompt whether the most probable token is the model's."""
        return [full.top[0] == own.top[0] for full, own in zip(self.answers.full, self.replies, strict=True)]

    def describe(self, number: int, kept: Sequence[int], texts: _Texts) -> dict[str, Any]:
        """Describe the circuit; see `prompt_section`.

        Args:
            number: of the set of its prompts.
            kept: the prompts that are listed.
            texts: to add to.
        """
        states = self.states
        value, full, ablated = (self.evaluation.per_prompt(of) for of in (self.point, "full", "ablated"))
        with np.errstate(all="ignore"):
            faithfulness = (value - ablated) / (full - ablated)
        order = sorted(range(len(kept)), key=lambda place: (states[kept[place]], _last(faithfulness[kept[place]])))
        return {
            "name": self.name,
            "set": number,
            "says": [*self._say(states, len(kept))],
            "templates": self._templates(states, texts),
            "rows": [
                [place, states[row], self._value(value[row]), _decimals(faithfulness[row]), self._reply(row, texts)]
                for place, row in ((place, kept[place]) for place in order)
            ],
        }

    def describe_prompts(self, kept: Sequence[int], texts: _Texts) -> dict[str, Any]:
        """Describe the prompts that are listed; see `prompt_section`."""
        answers, evaluation = self.answers, self.evaluation
        values = evaluation.per_prompt("full")
        labels = evaluation.templates or ("",) * evaluation.prompts
        empty = PromptTexts((), (), (), (), ())
        prompts = [_describe_prompt(answers.prompts[row] if answers else empty, texts) for row in kept]
        return {
            "objective": evaluation.objective,
            "prompts": [
                {"number": row + 1, "label": texts(labels[row])} | prompt
                for row, prompt in zip(kept, prompts, strict=True)
            ],
            "full": [
                _describe_reply(answers.full[row], answers.prompts[row], texts) if answers else None for row in kept
            ],
            "values": [self._value(values[row]) for row in kept],
        }

    def _value(self, value: float) -> str:
        """Show a value of the objective, with the sign that everybody knows (see `figures.format_interval`)."""
        return _decimals(-value if self.evaluation.objective == "logit_difference" else value)

    def _reply(self, row: int, texts: _Texts) -> Any:
        return _describe_reply(self.replies[row], self.answers.prompts[row], texts) if self.replies else None

    def _say(self, states: Sequence[int], listed: int) -> Iterator[str]:
        evaluation, count = self.evaluation, len(states)
        where = "held-out" if evaluation.split == "test" else evaluation.split
        if ACCURACY in evaluation.values:
            fails, both_wrong, only_right = (states.count(state) for state in (_FAILS, _BOTH_WRONG, _ONLY_RIGHT))
            known = count - both_wrong - only_right
            say = f"The circuit gets {known - fails} of the {known} prompts right that the model gets right"
            say += f"; {only_right} it gets right and the model does not" if only_right else ""
            yield say + (f"; on {both_wrong} both are wrong." if both_wrong else ".")
        faithful = format_interval(self.point.searched.faithfulness)
        yield f"{self.point.edges:,} edges, with faithfulness {faithful} on {count} {where} prompts."
        if self.answers and not self.replies:
            yield "Its answers are not shown: an earlier version saved those of the full model in their place."
        elif self.replies:
            yield f"On {sum(self._same_token())} of {count} prompts its most probable token is the model's."
        else:
            yield "The text of the prompts and the answers are not saved: an earlier version made this run."
        if listed < count:
            yield f"Listed are {listed} of the {count} prompts: those on which most circuits fail."

    def _templates(self, states: Sequence[int], texts: _Texts) -> list[list[Any]]:
        """Make a row for each template: label, prompts, failures, accuracies of circuit and model, faithfulness."""
        evaluation, labels = self.evaluation, np.array(self.evaluation.templates)
        if len(set(labels)) < 2:
            return []
        known = ACCURACY in evaluation.values
        accuracies = [evaluation.per_prompt(which, ACCURACY) for which in self._ends[::-1]] if known else []
        value, full, ablated = (evaluation.per_prompt(which) for which in (self.point, "full", "ablated"))
        failed = np.array(states) < FAILURES
        rows = []
        for label in sorted(set(labels), key=lambda label: (len(label), label))[:_MOST_TEMPLATES]:
            own = labels == label
            shares = [f"{found[own].mean():.0%}" for found in accuracies] or ["–", "–"]
            # Without an interval, which takes time and few templates have prompts for; the charts have them
            with np.errstate(all="ignore"):
                faithfulness = (value[own].mean() - ablated[own].mean()) / (full[own].mean() - ablated[own].mean())
            rows.append([texts(str(label)), int(own.sum()), int(failed[own].sum()), *shares, _decimals(faithfulness)])
        return rows


def _list_circuits(content: Content) -> list[_Shown]:
    """List the circuits that were evaluated: the first of each result, then the second ones, and so on."""
    of_results = [list(_shown_of(content, folder)) for folder in content.results]
    return [one for turn in zip_longest(*of_results) for one in turn if one is not None]


def _shown_of(content: Content, folder: str) -> Iterator[_Shown]:
    result = content.results[folder]
    answers, evaluations = result.answers, result.evaluations
    split = answers.split or next((split for split in ("test", *evaluations) if split in evaluations), None)
    replies = {one.circuit: one for one in answers.circuits}
    for number, circuit in enumerate(result.circuits if split else (), 1):
        evaluation = evaluations[split or ""][number - 1]
        own, saved = replies.get(number), answers if number in replies else Answers()
        if own and own.ranking != "own" and own.fraction == 1:
            own = None  # the full model, which earlier versions took for a ranking's circuit
        point = own.point(evaluation) if own else choose_shown(evaluation)
        if point is not None:
            name = name_circuit(content, content.cell_of(folder), result, circuit)
            yield _Shown(name, evaluation, point, saved, own.replies if own else ())


def _choose_prompts(some: Sequence[_Shown], most_tokens: int) -> list[int]:
    """Choose the prompts to list of circuits that share them: those on which most of these fail; in their order."""
    failures = [sum(state < FAILURES for state in states) for states in zip(*(one.states for one in some), strict=True)]
    prompts = some[0].answers.prompts
    kept: list[int] = []
    for row in sorted(range(len(failures)), key=lambda row: -failures[row])[:MOST_PROMPTS]:
        most_tokens -= min(len(prompts[row].clean), _LONGEST_PROMPT) if prompts else 0
        if kept and most_tokens < 0:
            break
        kept.append(row)
    return sorted(kept)


def _describe_prompt(prompt: PromptTexts, texts: _Texts) -> dict[str, Any]:
    end = max(prompt.answer_positions, default=-1) + 1
    start = max(end - _LONGEST_PROMPT, 0)
    clean, corrupted = prompt.clean[start : start + _LONGEST_PROMPT], prompt.corrupted[start : start + _LONGEST_PROMPT]
    asked = zip(prompt.answer_positions, prompt.answers, prompt.wrong_answers, strict=True)
    return {
        "tokens": [texts(token) for token in clean],
        "skipped": start,
        "changed": [
            [place, texts(other)]
            for place, (one, other) in enumerate(zip(clean, corrupted, strict=True))
            if one != other
        ],
        "asked": [
            [position - start, *_shorten(right, texts), *_shorten(wrong, texts)]
            for position, right, wrong in asked
            if position >= start
        ],
    }


def _shorten(tokens: Sequence[str], texts: _Texts) -> tuple[list[int], int]:
    """Return the first of some tokens, and how many more there are."""
    return [texts(token) for token in tokens[:_LONGEST_SET]], max(len(tokens) - _LONGEST_SET, 0)


def _describe_reply(reply: Reply, prompt: PromptTexts, texts: _Texts) -> list[Any]:
    right, wrong = prompt.answers[0], prompt.wrong_answers[0]
    top = [
        [texts(token), _thousandths(probability), 1 if token in right else 2 if token in wrong else 0]
        for token, probability in zip(reply.top, reply.top_probabilities, strict=True)
    ]
    return [_thousandths(reply.answer[0]), _thousandths(reply.wrong_answer[0]), top]


def _thousandths(probability: float | None) -> int | None:
    return None if probability is None or math.isnan(probability) else round(1000 * probability)


def _last(value: float) -> float:
    return value if math.isfinite(value) else math.inf


def _decimals(value: float | None) -> str:
    return "–" if value is None or not math.isfinite(value) else f"{value:z.2f}"
