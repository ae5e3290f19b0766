"""Answers against plain transformers logits and plain loops over edges, their file, and tokens as text."""

import io
import json
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from support.scripted import Case
from support.slow import SlowModel
from support.tiny import random_batch, tiny, tiny_hf
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import ByT5Tokenizer, PreTrainedTokenizerFast

import circuitkit
from circuitkit.circuit.circuit import Circuit
from circuitkit.data.objectives import AnswerLogProbability
from circuitkit.data.prompt_batch import PromptBatch
from circuitkit.engine.ablation import Resample
from circuitkit.engine.circuit_run import CircuitRun
from circuitkit.engine.prepared_batch import prepare_batches
from circuitkit.errors import CircuitKitError
from circuitkit.evaluation.answer_table import read_answer_table, write_answer_table
from circuitkit.evaluation.answers import TOP, AnswerCollector, Answers, choose_shown
from circuitkit.evaluation.evaluation import Evaluation
from circuitkit.evaluation.evaluator import Evaluator
from circuitkit.evaluation.token_texts import token_texts
from circuitkit.models.circuit_model import CircuitModel
from circuitkit.run.result import Result


def make_evaluator(variant: str, batch: PromptBatch, size: int = 8) -> Evaluator:
    model, ablation = tiny(variant), Resample()
    ablation.fit(model, [batch])
    return Evaluator(prepare_batches(model, batch.split(size), AnswerLogProbability(), ablation), "test")


def make_circuits(evaluator: Evaluator) -> list[Circuit]:
    """Make a circuit with edges of its own, and a ranking."""
    generator = torch.Generator().manual_seed(1)
    scores = torch.randn(len(evaluator.graph), generator=generator, dtype=torch.float64)
    ranking = Circuit.from_scores(evaluator.graph, scores)
    return [ranking.top(len(evaluator.graph) // 2).prune(), ranking]


def collect(variant: str, batch: PromptBatch, size: int = 8) -> tuple[Answers, list[Circuit], list[Evaluation]]:
    evaluator = make_evaluator(variant, batch, size)
    circuits = make_circuits(evaluator)
    collector, evaluations = AnswerCollector(evaluator, None), []
    for number, circuit in enumerate(circuits, 1):
        evaluations.append(evaluator.evaluate(circuit, [0.1, 0.2, 0.6], minimality=0 if circuit.is_ranking else 2))
        collector.add(number, circuit, evaluations[-1])
    return collector.finish(), circuits, evaluations


BATCHES = {
    "one answer": random_batch(),
    "sets of answers at several positions": random_batch(positions=2, answers=3, missing=1),
    "no wrong answers": PromptBatch.from_ids([[1, 2, 3], [4, 5]], [[1, 6, 3], [7, 5]], [[3, 4], [5]]),
}


@pytest.mark.parametrize("batch", BATCHES.values(), ids=BATCHES)
@pytest.mark.parametrize(
    ("variant", "tolerance"), [("gpt2", 1e-12), ("qwen3", 1e-6), ("gpt_neox", 1e-6)]
)  # transformers computes RMS norms and rotary angles in float32
def test_probabilities_are_those_of_plain_logits(variant: str, tolerance: float, batch: PromptBatch) -> None:
    """The full model by transformers, prompt by prompt; circuits by a plain loop over their edges."""
    answers, circuits, evaluations = collect(variant, batch)
    hf = tiny_hf(variant)
    slow = SlowModel(hf)
    _, ablated = slow.run(batch, set(slow.edges), None, batch.corrupted)
    runs = [(answers.full, None)]
    for one in answers.circuits:
        point = one.point(evaluations[one.circuit - 1])
        circuit = circuits[one.circuit - 1]
        kept = circuit if point.ranking == "own" else circuit.top(point.edges_asked, absolute=True).prune()
        names = {name for name, there in zip(kept.graph.names, kept.kept.tolist(), strict=True) if there}
        assert len(names) == one.edges
        runs.append((one.replies, slow.run(batch, names, ablated, batch.clean)[0]))
    assert [one.ranking for one in answers.circuits] == ["own", "absolute"]
    for replies, logits in runs:
        for row, reply in enumerate(replies):
            ids = batch.clean[row][batch.mask[row]]
            with torch.no_grad():
                own = hf(ids[None]).logits[0] if logits is None else logits[row][batch.mask[row]]
            probabilities = own.double().softmax(-1)
            positions = [int(p) - batch.length for p in batch.answer_positions[row] if p >= 0]
            for found, sets in ((reply.answer, batch.answers), (reply.wrong_answer, batch.wrong_answers)):
                wanted = [
                    sum(float(probabilities[position][token]) for token in tokens if token >= 0) or None
                    for position, tokens in zip(positions, sets[row], strict=False)
                ]
                assert found == pytest.approx(wanted, abs=tolerance)
            first = probabilities[positions[0]]
            order = sorted(range(len(first)), key=lambda token: -first[token])[:TOP]
            assert reply.top == tuple(map(str, order))
            assert reply.top_probabilities == pytest.approx([float(first[token]) for token in order], abs=tolerance)


def test_prompts_are_told_without_their_padding() -> None:
    batch = PromptBatch.from_ids(
        [[11, 12, 13, 14], [15, 16]],
        [[11, 22, 13, 14], [25, 16]],
        [[[1, 2], [3]], [[4]]],
        [[[5], [6, 7]], [[8]]],
        answer_positions=[[1, -1], [-1]],
        templates=["a", "b"],
    )
    answers, _, _ = collect("gpt2", batch)
    first, second = answers.prompts
    assert first.clean == ("11", "12", "13", "14")
    assert first.corrupted == ("11", "22", "13", "14")
    assert (first.answer_positions, second.answer_positions) == ((1, 3), (1,))
    assert first.answers == (("1", "2"), ("3",))
    assert first.wrong_answers == (("5",), ("6", "7"))
    assert (second.clean, second.answers, second.wrong_answers) == (("15", "16"), (("4",),), (("8",),))
    assert (first.template, second.template) == ("a", "b")
    assert [len(reply.answer) for reply in answers.full] == [2, 1]


def test_batches_make_no_difference() -> None:
    batch = random_batch(positions=2, answers=2)
    whole, parts = (collect("llama", batch, size)[0] for size in (8, 1))
    assert whole.prompts == parts.prompts
    replies, others = (
        [*one.full, *(reply for each in one.circuits for reply in each.replies)] for one in (whole, parts)
    )
    for one, other in zip(replies, others, strict=True):
        assert one.top == other.top
        assert one.top_probabilities == pytest.approx(other.top_probabilities, abs=1e-12)
        assert one.answer == pytest.approx(other.answer, abs=1e-12)


def test_no_circuit_is_run_once_more(monkeypatch: pytest.MonkeyPatch) -> None:
    evaluator = make_evaluator("gpt2", random_batch(), 2)
    circuits = make_circuits(evaluator)
    collector = AnswerCollector(evaluator, None)
    for number, circuit in enumerate(circuits, 1):
        evaluation = evaluator.evaluate(circuit, [0.1, 0.2, 0.6])
        with monkeypatch.context() as patch:
            patch.setattr(CircuitRun, "final", None)
            collector.add(number, circuit, evaluation)
    kept = circuits[0].kept
    for number in range(70):  # more circuits than streams are kept of
        evaluator.measure(kept & (torch.arange(len(kept), dtype=torch.int64) != number))
    later = AnswerCollector(evaluator, None)
    later.add(1, circuits[0], evaluator.evaluate(circuits[0], [0.1]))
    assert later.finish().circuits == collector.finish().circuits[:1]


# Which circuit is shown


def points(**curves: list[tuple[float, float | None]]) -> Any:
    """An evaluation with these fractions and faithfulnesses, by ranking."""

    class Stub:
        def __init__(self, ranking: str, fraction: float, faithfulness: float | None) -> None:
            self.ranking, self.fraction, self.faithfulness = ranking, fraction, faithfulness

    found = [Stub(name, *figures) for name, some in curves.items() for figures in some]

    class Evaluated:
        curve = staticmethod(lambda name: [point for point in found if point.ranking == name])

    return Evaluated()


@pytest.mark.parametrize(
    ("curves", "shown"),
    [
        ({"absolute": [(0.01, 0.1), (0.1, 0.85), (0.2, 0.99)], "random": [(0.01, 0.9)]}, ("absolute", 0.1)),
        ({"absolute": [(0.01, 0.1), (0.1, 0.8), (0.2, 0.7)]}, ("absolute", 0.1)),
        ({"absolute": [(0.01, 0.1), (0.2, 0.3), (0.5, 0.7)]}, ("absolute", 0.2)),
        ({"absolute": [(0.01, 0.1), (0.2, 0.3), (0.5, 0.9)]}, ("absolute", 0.5)),
        ({"absolute": [(0.01, None), (0.1, None), (0.5, None)]}, ("absolute", 0.1)),
        ({"signed": [(0.1, 0.9)], "random": [(0.1, 0.9)]}, ("signed", 0.1)),
        ({"signed": [(0.1, 0.9)], "greedy": [(0.2, 0.9)]}, ("greedy", 0.2)),
        ({"absolute": [(0.1, 0.9)], "own": [(0.3, 0.2)]}, ("own", 0.3)),
        ({"absolute": [(0.01, 0.1), (0.2, 0.3), (0.5, 0.7), (1.0, 1.0)]}, ("absolute", 0.2)),
        ({"absolute": [(0.5, 0.1), (1.0, 1.0)]}, ("absolute", 0.5)),
        ({"absolute": [(1.0, 1.0)], "signed": [(0.1, 0.2), (1.0, 1.0)]}, ("signed", 0.1)),
        ({"absolute": [(1.0, 1.0)]}, None),
        ({"own": [(1.0, 1.0)]}, ("own", 1.0)),
        ({"random": [(0.1, 0.9)]}, None),
    ],
)
def test_the_circuit_shown_is_its_own_or_the_smallest_faithful_one(curves: Any, shown: Any) -> None:
    point = choose_shown(points(**curves))
    assert (point and (point.ranking, point.fraction)) == shown


# In runs, and in their folders


@cache
def toy_result(strategy: str = "eap") -> Result:
    return circuitkit.discover("toy", "ioi", strategy, examples=6)


def test_a_run_has_the_answers_of_its_test_prompts() -> None:
    result = toy_result()
    answers = result.answers
    assert (answers.split, len(answers), len(answers.full)) == ("test", 6, 6)
    tokenizer = CircuitModel.from_pretrained("toy").tokenizer
    evaluation = result.evaluations["test"][0]
    right = evaluation.per_prompt("full", "accuracy")
    for number, prompt in enumerate(answers.prompts):
        assert prompt.template == evaluation.templates[number]
        assert tokenizer("".join(prompt.clean))["input_ids"] == tokenizer.convert_tokens_to_ids(list(prompt.clean))
        assert prompt.clean != prompt.corrupted
        assert prompt.answer_positions == (len(prompt.clean) - 1,)
        reply = answers.full[number]
        assert (reply.answer > reply.wrong_answer) == bool(right[number])
    for one in answers.circuits:
        right = evaluation.per_prompt(one.point(evaluation), "accuracy")
        assert [float(reply.answer > reply.wrong_answer) for reply in one.replies] == right.tolist()


@pytest.mark.parametrize("strategy", ["eap", "acdc"])
def test_answers_come_back_from_their_file(tmp_path: Path, strategy: str) -> None:
    result = toy_result(strategy)
    assert result.answers.circuits
    result.save(tmp_path)
    assert Result.load(tmp_path).answers == result.answers
    (tmp_path / "answers.parquet").unlink()  # as in a folder of an earlier version
    old = Result.load(tmp_path)
    assert not old.answers
    assert old.answers == Answers()
    assert old.evaluations == result.evaluations


def test_answers_without_a_tokenizer_are_numbers(tmp_path: Path) -> None:
    case = Case()
    result = case.run(out=tmp_path / "run")
    assert (result.answers.split, len(result.answers)) == ("train", len(case.batch))
    assert result.answers.prompts[1].clean == tuple(map(str, case.batch.clean[1].tolist()))
    assert Result.load(tmp_path / "run").answers == result.answers


def test_a_run_without_evaluation_has_no_answers(tmp_path: Path) -> None:
    result = Case().run(sizes=(), out=tmp_path / "run")
    assert not result.answers
    assert not (tmp_path / "run" / "answers.parquet").exists()
    assert not Case().run(rankings=["random"], sizes=[0.5]).answers.circuits


def test_the_table_is_read_by_pandas() -> None:
    answers = toy_result().answers
    table = pd.read_parquet(io.BytesIO(write_answer_table(answers)))
    full = table[table.circuit == 0]
    assert [tuple(tokens) for tokens in full.clean] == [prompt.clean for prompt in answers.prompts]
    own = table[table.circuit == 1]
    assert [tuple(tokens) for tokens in own.top] == [reply.top for reply in answers.circuits[0].replies]
    assert set(own.edges) == {answers.circuits[0].edges}


HOSTILE = "<script>alert(1)</script>\0\u202e{{ 7*7 }}[bold]=1+1" + "x" * 2000 + "👩🏽‍🔬"


def test_any_text_survives_the_file() -> None:
    answers = toy_result().answers
    prompt = replace(answers.prompts[0], clean=tuple(HOSTILE for _ in answers.prompts[0].clean), template=HOSTILE)
    changed = replace(answers, prompts=(prompt, *answers.prompts[1:]))
    assert read_answer_table(write_answer_table(changed), toy_result().evaluations) == changed


def _table(change: Callable[[list[dict[str, Any]]], Any]) -> bytes:
    """The table of a run with changed rows, in the same columns."""
    table = pq.read_table(io.BytesIO(write_answer_table(toy_result().answers)))
    rows = table.to_pylist()
    rows = change(rows) or rows
    file = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows, table.schema), file)
    return file.getvalue()


def _set(row: int, **values: Any) -> Callable[[list[dict[str, Any]]], Any]:
    return lambda rows: rows[row].update(values)


def _other_columns() -> bytes:
    file = io.BytesIO()
    pq.write_table(pa.table({"circuit": [0]}), file)
    return file.getvalue()


DAMAGED = {
    "empty": lambda: b"",
    "text": lambda: b"no Parquet file",
    "cut": lambda: _table(lambda rows: None)[:-300],
    "other columns": _other_columns,
    "no rows": lambda: _table(lambda rows: rows[:0] or [dict.fromkeys(rows[0])]),
    "a prompt less": lambda: _table(lambda rows: [row for row in rows if row["prompt"] != 5]),
    "an answer less": lambda: _table(lambda rows: rows[:-1]),
    "an answer twice": lambda: _table(lambda rows: [*rows, rows[-1]]),
    "another order": lambda: _table(lambda rows: rows[::-1]),
    "only circuits": lambda: _table(lambda rows: [row for row in rows if row["circuit"]]),
    "another split": lambda: _table(_set(0, split="validation")),
    "another split of one": lambda: _table(_set(-1, split="train")),
    "no circuit": lambda: _table(_set(0, circuit=None)),
    "an unknown circuit": lambda: _table(lambda rows: [row | {"circuit": row["circuit"] * 9} for row in rows]),
    "an unknown size": lambda: _table(lambda rows: [row | {"fraction": row["fraction"] / 3} for row in rows]),
    "several sizes": lambda: _table(_set(-1, edges=3)),
    "no prompt": lambda: _table(_set(0, clean=None)),
    "a gap in a prompt": lambda: _table(_set(0, clean=[None])),
    "no template": lambda: _table(_set(0, template=None)),
    "unequal prompts": lambda: _table(_set(0, corrupted=["a"])),
    "no answer position": lambda: _table(_set(0, answer_positions=[], answers=[], wrong_answers=[])),
    "a position outside": lambda: _table(_set(0, answer_positions=[99])),
    "a position before": lambda: _table(_set(0, answer_positions=[-1])),
    "a gap in the answers": lambda: _table(_set(0, answers=[[None]])),
    "answers for two positions": lambda: _table(_set(0, answers=[["a"], ["b"]])),
    "no probability": lambda: _table(_set(0, answer=[None])),
    "two probabilities": lambda: _table(_set(0, answer=[0.5, 0.5])),
    "a probability above one": lambda: _table(_set(-1, answer=[1.5])),
    "a negative probability": lambda: _table(_set(-1, top_probabilities=[-0.5] * TOP)),
    "no top": lambda: _table(_set(0, top=[], top_probabilities=[])),
    "a gap in the top": lambda: _table(_set(0, top=[None] * TOP)),
    "a shorter top": lambda: _table(_set(0, top=["a"])),
}


@pytest.mark.parametrize("damage", DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_or_foreign_file_is_one_clear_error(tmp_path: Path, damage: Callable[[], bytes]) -> None:
    result = toy_result()
    result.save(tmp_path)
    (tmp_path / "answers.parquet").write_bytes(damage())
    with pytest.raises(CircuitKitError, match=r"answers\.parquet is damaged: ") as raised:
        Result.load(tmp_path)
    assert raised.value.remedy == "Run the discovery again."


# Tokens as text


def byte_level() -> PreTrainedTokenizerFast:
    """GPT-2's way: bytes as printable characters, of which a token may have a part of a character's."""
    pieces = ["a", "Ġa", "ĠðŁĺ", "Ģ", "ðŁĺĢ", "Ċ", "é", "</s>"]
    made = Tokenizer(models.BPE(vocab={piece: number for number, piece in enumerate(pieces)}, merges=[]))
    made.pre_tokenizer, made.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=made, eos_token="</s>")


def sentence_piece() -> PreTrainedTokenizerFast:
    """Llama 2's way: `▁` for a space, and tokens for bytes."""
    pieces = ["<unk>", "▁Mary", "Mary", "▁", "<0xF0>", "."]
    made = Tokenizer(models.BPE(vocab={piece: number for number, piece in enumerate(pieces)}, merges=[]))
    made.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=made)


@pytest.mark.parametrize(
    ("tokenizer", "texts"),
    [
        (None, {0: "0", 50_000: "50000"}),
        (
            byte_level(),
            {0: "a", 1: " a", 2: " <0xF0><0x9F><0x98>", 3: "<0x80>", 4: "😀", 5: "\n", 7: "</s>", 99: "[99]"},
        ),
        (sentence_piece(), {0: "<unk>", 1: " Mary", 2: "Mary", 3: " ", 4: "<0xF0>", 5: ".", 77: "[77]"}),
        (ByT5Tokenizer(), {1: "</s>", 3 + ord("a"): "a", 3 + ord(" "): " "}),  # without offsets
    ],
    ids=["none", "byte level", "SentencePiece", "Python"],
)
def test_a_token_is_shown_with_its_space_and_its_bytes(tokenizer: Any, texts: dict[int, str]) -> None:
    text = token_texts(tokenizer)
    assert {token: text(token) for token in texts} == texts
    json.dumps(texts).encode("utf-8")
