"""Arithmetic: "34+25=" -> "59".

Addition and subtraction as in Stolfo et al. 2023, "A Mechanistic Interpretation of Arithmetic Reasoning in Language
Models using Causal Mediation Analysis" (arXiv 2305.15054), a task of MIB (Mueller et al. 2025, arXiv 2504.13151). What
differs: a prompt begins with two solved problems of its kind, always the same; problems are written with digits and
without spaces, so that tokenizers cannot join a space and a number.

The answer is the result. Where some result is not one token, as for tokenizers that split digits, it is the result's
first digit: of results with two digits, the tens. The wrong answer is that of the corrupted problem.
"""

from collections.abc import Sequence
from functools import partial
from random import Random
from typing import Any, Literal

from transformers import PreTrainedTokenizerBase

from circuitkit.errors import UsageError
from circuitkit.tasks.base import Split, check_choice
from circuitkit.tasks.drawn import DrawnTask, Frame, Pair, check_words, deal, known_templates
from circuitkit.tasks.text import continuation

Operation = Literal["addition", "subtraction", "both"]

_SIGNS = {"addition": "+", "subtraction": "-"}
_SOLVED = {
    (1, "addition"): ((1, 2), (5, 3)),
    (1, "subtraction"): ((7, 2), (9, 6)),
    (2, "addition"): ((31, 12), (25, 34)),
    (2, "subtraction"): ((58, 23), (67, 41)),
}
"""The problems that prompts begin with, by digits and operation; they are never asked."""
_SEPARATORS = {"lines": "\n", "commas": ",", "semicolons": ";"}
_RANGES = {1: range(1, 10), 2: range(10, 100)}

Problem = tuple[int, int]


class Arithmetic(DrawnTask):
    """Sums and differences of numbers with one or two digits (Stolfo et al. 2023).

    The corrupted prompt asks for another problem of the same split and operation.

    Args:
        operation: `addition`, `subtraction`, or `both`, equally often.
        digits: of the two numbers and of the result, 1 or 2.

    Raises:
        UsageError: an argument is none of these.
    """

    def __init__(self, operation: Operation = "both", digits: int = 1) -> None:
        check_choice(self, "operation", operation, Operation)
        if type(digits) is not int or digits not in _RANGES:
            raise UsageError(f"digits={digits!r} is neither 1 nor 2.", "Choose one of the two.")
        self.operation = operation
        self.digits = digits

    def frames(self, tokenizer: PreTrainedTokenizerBase, split: Split, seed: int) -> list[Frame]:
        """Make a frame for each operation and separator of the problems."""
        tokens = _answer_tokens(tokenizer, _RANGES[self.digits])
        numbers = _alike(tokenizer, _RANGES[self.digits])
        check_words(self, {"numbers": min(len(numbers), len(tokens))}, {"numbers": len(_RANGES[self.digits])})
        frames = []
        for operation in _SIGNS:
            if self.operation not in (operation, "both"):
                continue
            solved = _SOLVED[self.digits, operation]
            problems = [
                (one, other)
                for one in numbers
                for other in numbers
                if _solve(operation, (one, other)) in tokens and (one, other) not in solved
            ]
            own = deal(problems, self, split, seed)
            wanted = {
                f"{operation}, {label}": separator.join([*(_write(operation, one) for one in solved), "{problem}"])
                for label, separator in _SEPARATORS.items()
            }
            templates = known_templates(self, tokenizer, wanted, {"problem": _write(operation, solved[0])})
            frames += [
                Frame(label, [own], partial(_pair, template, operation, tokens, own))
                for label, template in templates.items()
            ]
        return frames


def _solve(operation: str, problem: Problem) -> int:
    one, other = problem
    return one + other if operation == "addition" else one - other


def _write(operation: str, problem: Problem, solved: bool = True) -> str:
    one, other = problem
    return f"{one}{_SIGNS[operation]}{other}={_solve(operation, problem) if solved else ''}"


def _pair(
    template: str, operation: str, tokens: dict[int, int], problems: list[Problem], chosen: Sequence[Any], rng: Random
) -> Pair:
    problem = chosen[0]
    answer = tokens[_solve(operation, problem)]
    other = rng.choice([one for one in problems if tokens[_solve(operation, one)] != answer])
    clean, corrupted = (template.format(problem=_write(operation, one, solved=False)) for one in (problem, other))
    return Pair(clean, corrupted, [answer], [tokens[_solve(operation, other)]])


def _answer_tokens(tokenizer: PreTrainedTokenizerBase, results: Sequence[int]) -> dict[int, int]:
    """Return the token of every result: of the whole number or, unless all are one token, of its first digit."""
    for write in (str, lambda number: str(number)[0]):
        found = {number: continuation(tokenizer, write(number), prompt="=") for number in results}
        tokens = {number: token for number, token in found.items() if token is not None}
        if len(tokens) == len(results):
            return tokens
    return {}


def _alike(tokenizer: PreTrainedTokenizerBase, numbers: Sequence[int]) -> list[int]:
    """Return the numbers that have as many tokens as the first one has, before and after a sign."""
    lengths = [len(tokenizer.encode(f"\n{number}+{number}-{number}=", add_special_tokens=False)) for number in numbers]
    return [number for number, length in zip(numbers, lengths, strict=True) if length == lengths[0]]
