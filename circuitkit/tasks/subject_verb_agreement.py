"""Subject-verb agreement: "The boys that the teacher likes" -> " are", not " is".

After Finlayson et al. 2021, "Causal Analysis of Syntactic Agreement Mechanisms in Neural Language Models" (arXiv
2106.06087); the same structures are in Marks et al. 2024, "Sparse Feature Circuits" (arXiv 2403.19647). What differs:
nouns and templates are ours, and the answers are sets of verbs (is, was, has against are, were, have), not one verb.
"""

from collections.abc import Sequence
from functools import partial
from random import Random
from typing import Any, Literal

from transformers import PreTrainedTokenizerBase

from circuitkit.tasks.base import Split, check_choice
from circuitkit.tasks.drawn import Arrangements, DrawnTask, Frame, Pair, check_words, deal, find_tokens, known_templates
from circuitkit.tasks.word_lists import PEOPLE

Structure = Literal["simple", "relative", "prepositional", "all"]

TEMPLATES = {
    "simple": (
        "The {noun}",
        "I know that the {noun}",
        "They say that the {noun}",
        "Today the {noun}",
        "In this town the {noun}",
        "Of course the {noun}",
    ),
    "relative": ("The {noun} that the {other} {verb}", "I know that the {noun} that the {other} {verb}"),
    "prepositional": (
        "The {noun} near the {other}",
        "The {noun} behind the {other}",
        "The {noun} next to the {other}",
        "I know that the {noun} near the {other}",
    ),
}
ANSWERS = (("is", "are"), ("was", "were"), ("has", "have"))
VERBS = (("likes", "like"), ("sees", "see"), ("knows", "know"), ("helps", "help"), ("loves", "love"), ("hates", "hate"))
_NUMBERS = (0, 1)  # singular, plural


class SubjectVerbAgreement(DrawnTask):
    """Agreement of the verb with its subject, also across another noun (Finlayson et al. 2021).

    The corrupted prompt has the subject in the other number. The other noun is in either number, equally often.

    Args:
        structure: what stands between subject and verb. `simple`: nothing; `relative`: a relative clause with another
            noun; `prepositional`: a preposition with another noun; `all`: each template equally often.

    Raises:
        UsageError: there is no such structure.
    """

    def __init__(self, structure: Structure = "all") -> None:
        check_choice(self, "structure", structure, Structure)
        self.structure = structure

    def frames(self, tokenizer: PreTrainedTokenizerBase, split: Split, seed: int) -> list[Frame]:
        """Make a frame for each template of the structure."""
        nouns = _both_known(tokenizer, [(noun, f"{noun}s") for noun in PEOPLE])
        verbs, answers = _both_known(tokenizer, VERBS), _both_known(tokenizer, ANSWERS)
        across = self.structure in ("relative", "all")
        found = {"nouns": len(nouns), "verbs": len(verbs), "verbs to answer with": len(answers)}
        check_words(self, found, {"nouns": 8, "verbs": int(across), "verbs to answer with": 1})
        wanted = {
            f"{structure} {number}": template
            for structure, templates in TEMPLATES.items()
            if self.structure in (structure, "all")
            for number, template in enumerate(templates)
        }
        filling = {"noun": nouns[0][0], "other": nouns[1][0], "verb": verbs[0][0] if verbs else ""}
        templates = known_templates(self, tokenizer, wanted, filling)
        tokens = [list(find_tokens(tokenizer, one).values()) for one in zip(*answers, strict=True)]
        own = deal(nouns, self, split, seed)
        return [
            Frame(label, _slots(template, own, verbs), partial(_pair, template, tokens))
            for label, template in templates.items()
        ]


def _slots(template: str, nouns: list[tuple[str, str]], verbs: list[tuple[str, str]]) -> list[Any]:
    """Return the choices: the subject's number, its noun, and if there is another noun, that, its number and a verb."""
    if "{other}" not in template:
        return [_NUMBERS, [(noun,) for noun in nouns]]
    return [_NUMBERS, Arrangements(nouns, 2), _NUMBERS, verbs if "{verb}" in template else [("", "")]]


def _pair(template: str, tokens: list[list[int]], chosen: Sequence[Any], rng: Random) -> Pair:
    number, nouns, *rest = chosen
    others = {}
    if rest:
        other_number, verb = rest
        others = {"other": nouns[1][other_number], "verb": verb[other_number]}
    clean, corrupted = (template.format(noun=nouns[0][one], **others) for one in (number, 1 - number))
    return Pair(clean, corrupted, tokens[number], tokens[1 - number])


def _both_known(tokenizer: PreTrainedTokenizerBase, words: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    """Return the words that are one token each both in the singular and in the plural."""
    known = find_tokens(tokenizer, [form for both in words for form in both])
    return [(one, many) for one, many in words if one in known and many in known]
