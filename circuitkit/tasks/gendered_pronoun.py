"""Gendered pronouns: "So Mary is a really great friend, isn't" -> " she".

Mathwin et al. 2023, "Identifying a Preliminary Circuit for Predicting Gendered Pronouns in GPT-2 Small". What differs:
names and words are ours, and the corrupted prompt has a name of the other gender where theirs says "That person".
"""

from collections.abc import Sequence
from functools import partial
from random import Random
from typing import Any

from transformers import PreTrainedTokenizerBase

from circuitkit.tasks.base import Split
from circuitkit.tasks.drawn import DrawnTask, Frame, Pair, check_words, deal, find_tokens, known_templates

TEMPLATES = {
    "0": "So {name} is a really {adjective} {noun}, isn't",
    "1": "I think {name} is a {adjective} {noun}, isn't",
    "2": "They say {name} is a very {adjective} {noun}, isn't",
    "3": "Well, {name} is such a {adjective} {noun}, isn't",
}
FEMALE = tuple(
    """Mary Patricia Jennifer Linda Elizabeth Barbara Susan Jessica Sarah Karen Lisa Nancy Margaret Sandra Emily Donna
    Michelle Carol Amanda Melissa Deborah Stephanie Rebecca Laura Sharon Amy Anna Emma Nicole Helen Rachel Maria
    Heather Diane Julie Victoria Lauren Ruth Alice Jane Kate Lucy Rose Claire Charlotte Grace""".split()  # noqa: SIM905
)
MALE = tuple(
    """James Robert John Michael William David Richard Joseph Thomas Charles Christopher Daniel Matthew Anthony Mark
    Donald Steven Paul Andrew Joshua Kenneth Kevin Brian George Edward Ronald Timothy Jason Jeffrey Ryan Jacob Gary
    Nicholas Eric Jonathan Stephen Larry Justin Scott Brandon Benjamin Samuel Gregory Frank Patrick Jack Henry Peter
    Adam Simon Martin Oliver Tom Jim Bob""".split()  # noqa: SIM905
)
ADJECTIVES = (
    "great",
    "good",
    "nice",
    "kind",
    "close",
    "strong",
    "smart",
    "brave",
    "funny",
    "quiet",
    "young",
    "special",
)
NOUNS = ("friend", "person", "teacher", "student", "doctor", "writer", "leader", "worker", "driver", "player", "artist")


class GenderedPronoun(DrawnTask):
    """The pronoun that fits a name (Mathwin et al. 2023).

    The corrupted prompt has a name of the other gender, of the same split.
    """

    def frames(self, tokenizer: PreTrainedTokenizerBase, split: Split, seed: int) -> list[Frame]:
        """Make a frame for each template and gender."""
        lists = {"female names": FEMALE, "male names": MALE, "adjectives": ADJECTIVES, "nouns": NOUNS}
        words = {kind: list(find_tokens(tokenizer, candidates)) for kind, candidates in lists.items()}
        pronouns = find_tokens(tokenizer, ("she", "he"))
        needed = {"female names": 4, "male names": 4, "adjectives": 1, "nouns": 1, "pronouns": 2}
        check_words(self, {kind: len(found) for kind, found in {**words, "pronouns": pronouns}.items()}, needed)
        filling = {"name": words["female names"][0], "adjective": words["adjectives"][0], "noun": words["nouns"][0]}
        templates = known_templates(self, tokenizer, TEMPLATES, filling)
        female, male = (deal(words[kind], self, split, seed) for kind in ("female names", "male names"))
        return [
            Frame(label, [own, words["adjectives"], words["nouns"]], partial(_pair, template, others, tokens))
            for label, template in templates.items()
            for own, others, tokens in (
                (female, male, (pronouns["she"], pronouns["he"])),
                (male, female, (pronouns["he"], pronouns["she"])),
            )
        ]


def _pair(template: str, others: list[str], tokens: tuple[int, int], chosen: Sequence[Any], rng: Random) -> Pair:
    name, adjective, noun = chosen
    clean, corrupted = (template.format(name=one, adjective=adjective, noun=noun) for one in (name, rng.choice(others)))
    return Pair(clean, corrupted, tokens[:1], tokens[1:])
