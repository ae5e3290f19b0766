"""What a page says of prompts is what the run recorded, in any text, within limits, and without answers too."""

import json
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.page_reader import read_page

import circuitkit
from circuitkit import Circuit, DiscoveryStrategy, PromptBatch
from circuitkit.evaluation.answers import Answers
from circuitkit.page.blocks import make_block
from circuitkit.page.content import Content
from circuitkit.page.page import write_report
from circuitkit.page.prompts import FAILURES, MOST_CIRCUITS, MOST_PROMPTS, STATES, prompt_section, visible
from circuitkit.run.result import Result
from circuitkit.strategies.discovery import Discovery

EVIL = "<script>alert(1)</script><img src=x onerror=alert(2)>\"'[b]=1+1[/b]{{ 1234*4321 }}{% if %}\0\u202ea</textarea>"
EMOJI = "👩🏽‍🔬é𝕏ﷺ"


class Several(DiscoveryStrategy):
    """Circuits of different sizes."""

    def __init__(self, count: int) -> None:
        self._count = count

    def discover(self, run: Discovery) -> list[Circuit]:
        generator = torch.Generator().manual_seed(0)
        scores = torch.rand(len(run.model.graph), generator=generator, dtype=torch.float64)
        ranking = Circuit.from_scores(run.model.graph, scores)
        return [ranking.top(len(ranking.graph) - 3 * number) for number in range(1, self._count + 1)]


@cache
def several(count: int = 3, examples: int = 12) -> Result:
    return circuitkit.discover("toy", "ioi", Several(count), examples=examples, splits=["test"])


@cache
def ranking() -> Result:
    return circuitkit.discover("toy", "ioi", "eap", examples=12)


def describe(result: Result, folder: Path) -> dict[str, Any]:
    result.save(folder / "run")
    found = prompt_section(Content.load(folder / "run"))
    assert found is not None
    return json.loads(json.dumps(found, allow_nan=False))


def rows_of_page(folder: Path) -> str:
    write_report(folder)
    page = (folder / "report.html").read_text()
    return page[page.index('<section aria-labelledby="prompts">') :].partition("</section>")[0]


def change(result: Result, **fields: Any) -> Result:
    """Change fields of every prompt of a result."""
    prompts = result.answers.prompts
    changed = tuple(replace(prompt, **{name: act(prompt) for name, act in fields.items()}) for prompt in prompts)
    return replace(result, answers=replace(result.answers, prompts=changed))


@pytest.mark.parametrize("make", [several, ranking])
def test_counts_and_rows_are_those_of_the_evaluation(make: Any, tmp_path: Path) -> None:
    result = make()
    data = describe(result, tmp_path)
    assert len(data["circuits"]) == len(result.circuits) == len(result.answers.circuits)
    assert len(data["sets"]) == 1
    for circuit, own, evaluation in zip(
        data["circuits"], result.answers.circuits, result.evaluations["test"], strict=True
    ):
        point = own.point(evaluation)
        value, full, ablated = (evaluation.per_prompt(which) for which in (point, "full", "ablated"))
        right, full_right = (evaluation.per_prompt(which, "accuracy") for which in (point, "full"))
        assert sorted(row[0] for row in circuit["rows"]) == list(range(12))
        same = [a.top[0] == b.top[0] for a, b in zip(result.answers.full, own.replies, strict=True)]
        for prompt, state, shown_value, faithfulness, _ in circuit["rows"]:
            expected = {
                (1, 1): "right" if same[prompt] else "right, other token",
                (1, 0): "fails",
                (0, 1): "right, model wrong",
                (0, 0): "both wrong",
            }
            assert STATES[state] == expected[int(full_right[prompt]), int(right[prompt])]
            assert shown_value == f"{-value[prompt]:z.2f}"  # the difference, not the objective
            whole = (value[prompt] - ablated[prompt]) / (full[prompt] - ablated[prompt])
            assert faithfulness == f"{whole:z.2f}"
            assert data["sets"][0]["values"][prompt] == f"{-full[prompt]:z.2f}"
        states = [row[1] for row in circuit["rows"]]
        assert states == sorted(states)  # failures first
        fails = int(((right == 0) & (full_right == 1)).sum())
        assert sum(state < FAILURES for state in states) == fails
        known, both = int(full_right.sum()), int(((right == 1) & (full_right == 1)).sum())
        says = circuit["says"][0]
        assert says.startswith(f"The circuit gets {both} of the {known} prompts right that the model gets right")
        wrong = int(((right == 0) & (full_right == 0)).sum())
        assert (f"on {wrong} both are wrong" in says) == bool(wrong)
        only = int(((right == 1) & (full_right == 0)).sum())
        assert (f"{only} it gets right and the model does not" in says) == bool(only)
        assert f"{point.edges:,} edges" in circuit["says"][1]
        by_template = evaluation.by_template(point)
        assert len(circuit["templates"]) == len(by_template) > 1
        for label, count, failures, accuracy, of_model, faithfulness in circuit["templates"]:
            there = np.array(evaluation.templates) == data["texts"][label]
            assert faithfulness == f"{by_template[data['texts'][label]].faithfulness.value:z.2f}"
            assert count == there.sum()
            assert failures == ((right == 0) & (full_right == 1))[there].sum()
            assert (accuracy, of_model) == (f"{right[there].mean():.0%}", f"{full_right[there].mean():.0%}")


def test_prompts_and_replies_are_those_that_were_recorded(tmp_path: Path) -> None:
    result = several()
    data = describe(result, tmp_path)
    texts, (of_prompts,) = data["texts"], data["sets"]
    for number, (prompt, shown) in enumerate(zip(result.answers.prompts, of_prompts["prompts"], strict=True)):
        assert shown["number"] == number + 1
        assert texts[shown["label"]] == prompt.template
        assert [texts[token] for token in shown["tokens"]] == list(prompt.clean)
        corrupted = list(prompt.clean)
        for place, token in shown["changed"]:
            corrupted[place] = texts[token]
        assert corrupted == list(prompt.corrupted)
        ((place, right, more, wrong, more_wrong),) = shown["asked"]
        assert (place, more, more_wrong) == (len(prompt.clean) - 1, 0, 0)
        assert ([texts[one] for one in right], [texts[one] for one in wrong]) == (
            list(prompt.answers[0]),
            list(prompt.wrong_answers[0]),
        )
    replies = [(result.answers.full, dict(enumerate(of_prompts["full"])))]
    for circuit, own in zip(data["circuits"], result.answers.circuits, strict=True):
        replies.append((own.replies, {row[0]: row[4] for row in circuit["rows"]}))
    for recorded, described in replies:
        for number, reply in enumerate(recorded):
            prompt = result.answers.prompts[number]
            right, wrong, top = described[number]
            assert (right, wrong) == (round(1000 * reply.answer[0]), round(1000 * reply.wrong_answer[0]))
            assert [texts[token] for token, _, _ in top] == list(reply.top)
            assert [share for _, share, _ in top] == [round(1000 * value) for value in reply.top_probabilities]
            kinds = [1 if t in prompt.answers[0] else 2 if t in prompt.wrong_answers[0] else 0 for t in reply.top]
            assert [kind for _, _, kind in top] == kinds


def test_a_folder_without_answers_shows_the_values(tmp_path: Path) -> None:
    with_answers = describe(several(), tmp_path / "new")
    without = describe(replace(several(), answers=Answers()), tmp_path / "old")
    for circuit, other in zip(without["circuits"], with_answers["circuits"], strict=True):
        assert sorted(row[0:4:2] for row in circuit["rows"]) == sorted(row[0:4:2] for row in other["rows"])
        assert circuit["templates"]
        assert all(row[4] is None for row in circuit["rows"])
        assert circuit["says"][-1].startswith("The text of the prompts and the answers are not saved")
    write_report(tmp_path / "old" / "run")
    assert "not saved: an earlier version" in read_page(tmp_path / "old" / "run").text


def test_a_run_that_evaluated_nothing_has_no_prompts(tmp_path: Path) -> None:
    circuitkit.discover("toy", "ioi", "eap", examples=4, sizes=(), out=tmp_path)
    assert prompt_section(Content.load(tmp_path)) is None


def test_prompts_without_answers_are_compared_by_token(tmp_path: Path) -> None:
    model = circuitkit.CircuitModel.from_pretrained("toy")
    batch = PromptBatch.from_ids([[5, 6, 7], [8, 9, 10]], [[5, 11, 7], [8, 12, 10]], [[], []])
    result = circuitkit.discover(model, batch, Several(2), objective="kl")
    data = describe(result, tmp_path)
    own = result.answers.circuits[1].replies
    same = [full.top[0] == one.top[0] for full, one in zip(result.answers.full, own, strict=True)]
    states = {row[0]: STATES[row[1]] for row in data["circuits"][1]["rows"]}
    assert [states[number] for number in range(2)] == ["same token" if one else "other token" for one in same]
    assert data["sets"][0]["prompts"][0]["asked"] == [[2, [], 0, [], 0]]
    assert data["sets"][0]["full"][0][:2] == [None, None]
    write_report(tmp_path / "run")


def _like_an_earlier_version(result: Result) -> Result:
    """Change answers to those of the full model, in the place of a ranking's circuit."""
    (own,) = result.answers.circuits
    evaluation = result.evaluations["test"][0]
    whole = next(point for point in evaluation.curve(own.ranking) if point.fraction == 1)
    old = replace(own, fraction=1.0, edges=whole.edges, replies=result.answers.full)
    return replace(result, answers=replace(result.answers, circuits=(old,)))


def test_the_full_model_is_not_shown_as_a_circuit(tmp_path: Path) -> None:
    result = circuitkit.discover("toy", "ioi", "eap", examples=12, sizes=[0.1, 1.0])
    new = describe(result, tmp_path / "new")
    old = describe(_like_an_earlier_version(result), tmp_path / "old")
    assert "in their place" in old["circuits"][0]["says"][-1]
    assert "in their place" not in str(new)
    assert [row[4] for row in old["circuits"][0]["rows"]] == [None] * 12
    assert old["circuits"][0]["says"][1] == new["circuits"][0]["says"][1]  # of the same size
    assert [old["texts"][one] for one in old["sets"][0]["prompts"][0]["tokens"]] == list(
        result.answers.prompts[0].clean
    )
    write_report(tmp_path / "old" / "run")


def test_the_logit_difference_is_that_of_the_summary_and_of_the_rows(tmp_path: Path) -> None:
    result = several()
    data = describe(result, tmp_path)
    values = [float(value) for value in data["sets"][0]["values"]]
    figures = result.to_pandas()
    assert np.mean(values) == pytest.approx(figures["logit_difference_model"].iloc[0], abs=0.01)
    own = figures[(figures["ranking"] == "own") & (figures["split"] == "test")]
    for circuit, wanted in zip(data["circuits"], own["logit_difference"], strict=True):
        assert np.mean([float(row[2]) for row in circuit["rows"]]) == pytest.approx(wanted, abs=0.01)


def test_a_right_answer_with_another_token_is_listed_before_plain_right_ones(tmp_path: Path) -> None:
    result = several()
    full = result.answers.full
    changed = tuple(
        replace(reply, top=("another", *reply.top[1:]) if number % 2 else full[number].top)
        for number, reply in enumerate(result.answers.circuits[0].replies)
    )
    first = replace(result.answers.circuits[0], replies=changed)
    circuits = (first, *result.answers.circuits[1:])
    data = describe(replace(result, answers=replace(result.answers, circuits=circuits)), tmp_path)
    rows = [(STATES[row[1]], row[0] % 2) for row in data["circuits"][0]["rows"]]
    right = [odd for state, odd in rows if state in ("right", "right, other token")]
    assert right == sorted(right, reverse=True)
    assert set(right) == {0, 1}
    assert {state for state, odd in rows if not odd and state.startswith("right")} <= {"right", "right, model wrong"}
    assert f"On {12 - 6} of 12 prompts its most probable token" in str(data["circuits"][0]["says"])


# Limits


def widen(result: Result, circuits: int, prompts: int) -> Result:
    """Repeat the circuits and prompts of a result, with figures of their own."""
    rng, rows = np.random.default_rng(0), [number % len(result.answers) for number in range(prompts)]
    evaluations, replies = [], []
    for number in range(circuits):
        own = result.answers.circuits[number % len(result.circuits)]
        evaluation = result.evaluations["test"][own.circuit - 1]
        values = {name: found[:, rows].copy() for name, found in evaluation.values.items()}
        for name, found in values.items():
            found[:-2] = rng.random(found[:-2].shape) if name != "accuracy" else rng.integers(2, size=found[:-2].shape)
        templates = tuple(str(row % 15) for row in range(prompts))
        evaluations.append(replace(evaluation, values=values, prompts=prompts, templates=templates))
        fresh = []
        for row in rows:
            shares, top = sorted(rng.random(5), reverse=True), rng.permutation(own.replies[row].top)
            fresh.append(replace(own.replies[row], top_probabilities=tuple(shares), top=tuple(map(str, top))))
        replies.append(replace(own, circuit=number + 1, replies=tuple(fresh)))
    answers = replace(
        result.answers,
        prompts=tuple(result.answers.prompts[row] for row in rows),
        full=tuple(result.answers.full[row] for row in rows),
        circuits=tuple(replies),
    )
    many = [result.circuits[number % len(result.circuits)] for number in range(circuits)]
    return replace(result, circuits=many, evaluations={"test": evaluations}, answers=answers)


def test_the_data_of_many_prompts_and_circuits_are_small(tmp_path: Path) -> None:
    result = widen(several(), 26, 80)
    data = describe(result, tmp_path)
    assert (len(data["circuits"]), data["left"]) == (MOST_CIRCUITS, 2)
    listed = [prompt["number"] - 1 for prompt in data["sets"][0]["prompts"]]
    assert listed == sorted(listed)
    assert len(listed) == MOST_PROMPTS
    failures = np.zeros(80, dtype=int)
    for own, evaluation in list(zip(result.answers.circuits, result.evaluations["test"], strict=True))[:MOST_CIRCUITS]:
        right, full = (evaluation.per_prompt(one, "accuracy") for one in (own.point(evaluation), "full"))
        failures += (right == 0) & (full == 1)
    assert failures[listed].min() >= max(failures[row] for row in range(80) if row not in listed)
    for circuit in data["circuits"]:
        assert circuit["says"][-1].startswith("Listed are 64 of the 80 prompts")
    block = make_block("prompt-data", data).text
    assert len(block) + len(rows_of_page(tmp_path / "run").encode()) < 300_000


def test_long_prompts_texts_and_sets_are_cut(tmp_path: Path) -> None:
    long = change(
        several(),
        clean=lambda prompt: tuple("x" * 5000 if place == 2999 else str(place) for place in range(3000)),
        corrupted=lambda prompt: tuple("y" if place == 2998 else str(place) for place in range(3000)),
        answer_positions=lambda prompt: (2999,),
        answers=lambda prompt: (tuple(map(str, range(100))),),
        wrong_answers=lambda prompt: (tuple(map(str, range(100, 300))),),
    )
    data = describe(long, tmp_path)
    prompt = data["sets"][0]["prompts"][0]
    assert (len(prompt["tokens"]), prompt["skipped"]) == (400, 2600)
    assert max(map(len, data["texts"])) == 60
    assert data["texts"][prompt["tokens"][-1]].endswith("x…")
    assert [data["texts"][token] for place, token in prompt["changed"] if place == 398] == ["y"]
    ((place, right, more, wrong, more_wrong),) = prompt["asked"]
    assert (place, len(right), more, len(wrong), more_wrong) == (399, 4, 96, 4, 196)


# Any text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (" Mary", " Mary"),
        ("\n\t", "\\n\\t"),
        ("a\0b", "a\\x00b"),
        ("\u202eabc", "\\u202eabc"),
        ("\ud800", "\\ud800"),
        ("😀é𝕏", "😀é𝕏"),
        ("<b>&amp;{{ x }}", "<b>&amp;{{ x }}"),
        ("x" * 61, "x" * 59 + "…"),
        ("", ""),
    ],
)
def test_what_cannot_be_seen_is_escaped(text: str, shown: str) -> None:
    assert visible(text) == shown


@pytest.mark.parametrize("text", [EVIL, EMOJI, "\u202e\u2066\u200f", "\0\x1b[31m", "</script><!--", "x" * 3000])
def test_any_text_is_text_in_the_page(tmp_path: Path, text: str) -> None:
    result = several(2, 4)
    result.save(tmp_path / "plain")
    write_report(tmp_path / "plain")
    changed = change(
        result,
        clean=lambda prompt: tuple(text if place == 1 else token for place, token in enumerate(prompt.clean)),
        corrupted=lambda prompt: tuple(text if place == 1 else token for place, token in enumerate(prompt.corrupted)),
        template=lambda prompt: prompt.template,
    )
    evaluations = [replace(one, templates=(text, *one.templates[1:])) for one in result.evaluations["test"]]
    full = tuple(replace(reply, top=(text, *reply.top[1:])) for reply in changed.answers.full)
    changed = replace(changed, answers=replace(changed.answers, full=full), evaluations={"test": evaluations})
    changed.save(tmp_path / "evil")
    write_report(tmp_path / "evil")
    plain, evil = read_page(tmp_path / "plain"), read_page(tmp_path / "evil")
    for tag in ("script", "img", "textarea", "b", "style"):
        assert [one for one, _ in evil.elements].count(tag) == [one for one, _ in plain.elements].count(tag)
    assert visible(text) in evil.text
    raw = (tmp_path / "evil" / "report.html").read_text()
    assert not set("\0\u202e\u2066\u200f\x1b") & set(raw)
    assert "5332014" not in raw
