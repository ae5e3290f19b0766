"""Capitals: "The capital of France is" -> " Paris".

Recall of facts, as in Meng et al. 2022, "Locating and Editing Factual Associations in GPT" (arXiv 2202.05262), and the
country-capital task of Hanna et al. 2024, "Have Faith in Faithfulness" (arXiv 2403.17806). What differs: the list of
facts and the templates are ours. The corrupted prompt names another country, whose name has as many tokens.
"""

from collections import defaultdict
from collections.abc import Sequence
from functools import partial
from random import Random
from typing import Any

from transformers import PreTrainedTokenizerBase

from circuitkit.tasks.base import Split
from circuitkit.tasks.drawn import DrawnTask, Frame, Pair, check_words, deal, find_tokens, known_templates

TEMPLATES = {
    "0": "The capital of {country} is",
    "1": "The capital city of {country} is called",
    "2": "Question: What is the capital of {country}?\nAnswer:",
    "3": "The capital of Mongolia is Ulaanbaatar. The capital of {country} is",
}
CAPITALS = {
    "Afghanistan": "Kabul",
    "Albania": "Tirana",
    "Armenia": "Yerevan",
    "Australia": "Canberra",
    "Austria": "Vienna",
    "Azerbaijan": "Baku",
    "Bangladesh": "Dhaka",
    "Belgium": "Brussels",
    "Bulgaria": "Sofia",
    "Canada": "Ottawa",
    "Chile": "Santiago",
    "China": "Beijing",
    "Colombia": "Bogotá",
    "Croatia": "Zagreb",
    "Cuba": "Havana",
    "Denmark": "Copenhagen",
    "Ecuador": "Quito",
    "Egypt": "Cairo",
    "England": "London",
    "Estonia": "Tallinn",
    "Finland": "Helsinki",
    "France": "Paris",
    "Germany": "Berlin",
    "Ghana": "Accra",
    "Greece": "Athens",
    "Hungary": "Budapest",
    "Indonesia": "Jakarta",
    "Iran": "Tehran",
    "Iraq": "Baghdad",
    "Ireland": "Dublin",
    "Italy": "Rome",
    "Japan": "Tokyo",
    "Kenya": "Nairobi",
    "Latvia": "Riga",
    "Lebanon": "Beirut",
    "Libya": "Tripoli",
    "Morocco": "Rabat",
    "Nepal": "Kathmandu",
    "Norway": "Oslo",
    "Pakistan": "Islamabad",
    "Peru": "Lima",
    "Poland": "Warsaw",
    "Portugal": "Lisbon",
    "Qatar": "Doha",
    "Romania": "Bucharest",
    "Russia": "Moscow",
    "Scotland": "Edinburgh",
    "Senegal": "Dakar",
    "Serbia": "Belgrade",
    "Somalia": "Mogadishu",
    "Spain": "Madrid",
    "Sudan": "Khartoum",
    "Sweden": "Stockholm",
    "Switzerland": "Bern",
    "Syria": "Damascus",
    "Taiwan": "Taipei",
    "Thailand": "Bangkok",
    "Turkey": "Ankara",
    "Uganda": "Kampala",
    "Ukraine": "Kyiv",
    "Venezuela": "Caracas",
    "Vietnam": "Hanoi",
    "Wales": "Cardiff",
    "Zimbabwe": "Harare",
}


class Capital(DrawnTask):
    """Recall of a country's capital, from a list of ours (after Meng et al. 2022).

    The corrupted prompt names another country of the same split, whose capital is the wrong answer.
    """

    def frames(self, tokenizer: PreTrainedTokenizerBase, split: Split, seed: int) -> list[Frame]:
        """Make a frame for each template and number of tokens of the country."""
        tokens = find_tokens(tokenizer, CAPITALS.values())
        facts = [
            (country, tokens[capital])
            for country, capital in CAPITALS.items()
            if capital in tokens and tokenizer.unk_token_id not in _ids(tokenizer, country)
        ]
        check_words(self, {"capitals": len(facts)}, {"capitals": 8})
        templates = known_templates(self, tokenizer, TEMPLATES, {"country": facts[0][0]})
        by_length: dict[int, list[tuple[str, int]]] = defaultdict(list)
        for country, token in deal(facts, self, split, seed):
            by_length[len(_ids(tokenizer, country))].append((country, token))
        return [
            Frame(label, [alike], partial(_pair, template, alike))
            for label, template in templates.items()
            for _, alike in sorted(by_length.items())
            if len(alike) > 1
        ]


def _ids(tokenizer: PreTrainedTokenizerBase, country: str) -> list[int]:
    return list(tokenizer.encode(f"of {country}", add_special_tokens=False))


def _pair(template: str, facts: list[tuple[str, int]], chosen: Sequence[Any], rng: Random) -> Pair:
    (country, capital) = chosen[0]
    other, other_capital = rng.choice([fact for fact in facts if fact[0] != country])
    return Pair(template.format(country=country), template.format(country=other), [capital], [other_capital])
