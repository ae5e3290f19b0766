"""The text about a checked prompt file."""

from dataclasses import replace

import pytest
from support.tiny import tiny

from circuitkit.evaluation.ability import Ability
from circuitkit.evaluation.intervals import Figure
from circuitkit.evaluation.suitability import Suitability
from circuitkit.report.prompt_check import prompt_check_text
from circuitkit.tasks.file_check import FileCheck

FOUND = Suitability(
    ability=Ability(Figure(1.0, 0.9, 1.0), 0.5, Figure(2.0, 1.0, 3.0), 9, {}),
    near_chance=False,
    objectives={"logit_difference": "", "kl": "", "squared_error": ""},
    strategies={"logit_difference": {}, "kl": {}, "squared_error": {}},
    objective="logit_difference",
    faithfulness=Figure(0.5, 0.3, 0.7),
    needed=36,
)


def text_of(found: Suitability) -> str:
    text = prompt_check_text("p.csv", tiny("gpt2"), FileCheck(9, [], [], 0, {}, None), found)
    return " ".join(text.split())


def test_every_strategy_has_its_own_reason() -> None:
    refusing = {"eap": "Zero.", "gim": "Zero.", "mine": "ValueError: wrong"}
    text = text_of(replace(FOUND, strategies={"logit_difference": {}, "kl": refusing, "squared_error": refusing}))
    assert "all with logit_difference with kl, squared_error all but eap, gim (Zero); mine (ValueError: wrong)" in text
    other = dict.fromkeys(refusing, "Other.")
    text = text_of(replace(FOUND, strategies={"logit_difference": {}, "kl": refusing, "squared_error": other}))
    assert "with kl all but eap, gim (Zero); mine (ValueError: wrong)" in text
    assert "with squared_error all but eap, gim, mine (Other)" in text


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, "Needed: about 36 test prompts"),
        ({"faithfulness": Figure(0.5, None, None), "needed": None}, "prompts are too few, or too different: faith"),
        ({"faithfulness": Figure(None, None, None), "needed": None}, "prompts are too few, or too different: faith"),
        ({"faithfulness": Figure(0.5, 0.5, 0.5), "needed": None}, "prompts all have the same effect: faith"),
        ({"objective": None, "faithfulness": Figure(None, None, None), "needed": None}, "no objective that suits"),
    ],
)
def test_why_it_is_not_known_how_many_prompts_it_takes(changes: dict[str, object], said: str) -> None:
    text = text_of(replace(FOUND, **changes))  # type: ignore[arg-type]
    assert said in text
    assert "(None)" not in text
