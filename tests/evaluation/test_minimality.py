"""Effects of single edges of a circuit equal runs without each."""

import io
import json

import pandas as pd
import pytest
import torch
from support.tiny import random_batch, tiny

from circuitkit.circuit.circuit import Circuit
from circuitkit.data.objectives import KLDivergence
from circuitkit.engine.ablation import Resample
from circuitkit.engine.prepared_batch import prepare_batches
from circuitkit.errors import UsageError
from circuitkit.evaluation.evaluation import Evaluation
from circuitkit.evaluation.evaluator import Evaluator, evaluate
from circuitkit.evaluation.intervals import PerPrompt, difference_figure
from circuitkit.evaluation.minimality import check_minimality
from circuitkit.evaluation.prompt_table import PromptValues, write_prompt_table

LENGTHS = (5, 7, 6, 5, 8, 6)


def make_evaluator(seed: int = 0) -> Evaluator:
    model, batch = tiny("gpt2"), random_batch(lengths=LENGTHS)
    ablation = Resample()
    ablation.fit(model, [batch])
    return Evaluator(prepare_batches(model, [batch], KLDivergence(), ablation), "test", seed)


def some_circuit(evaluator: Evaluator, edges: int = 40) -> Circuit:
    scores = torch.rand(len(evaluator.graph), generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return Circuit.from_scores(evaluator.graph, scores).top(edges)


def test_each_effect_is_the_faithfulness_that_goes_with_the_edge() -> None:
    one = make_evaluator()
    circuit = some_circuit(one)
    found = one.evaluate(circuit, sizes=[], minimality=12)
    assert len({effect.edge for effect in found.minimality}) == 12
    full, ablated = (found.per_prompt(end) for end in ("full", "ablated"))
    (own,) = found.curve("own")
    for effect in found.minimality:
        (left,) = (
            make_evaluator().evaluate(circuit - Circuit.from_names(one.graph, [effect.edge]), sizes=[]).curve("own")
        )
        assert effect.effect.value == pytest.approx(own.faithfulness - left.faithfulness, abs=1e-12)
        without = found.per_prompt(effect)
        assert without.mean() == pytest.approx(left.value, abs=1e-12)
        alone = difference_figure(PerPrompt(found.per_prompt(own), full, ablated), PerPrompt(without, full, ablated))
        assert effect.effect == pytest.approx(alone, abs=1e-12)
        assert effect.effect.low is not None
    assert any(abs(effect.effect.value) > 0.01 for effect in found.minimality)


def test_edges_are_sampled_by_the_seed_and_all_of_a_small_circuit() -> None:
    one, again, other = make_evaluator(), make_evaluator(), make_evaluator(seed=1)
    circuit = some_circuit(one)
    names = [
        [effect.edge for effect in by.evaluate(circuit, [], minimality=12).minimality] for by in (one, again, other)
    ]
    assert names[0] == names[1] != names[2]
    assert set(names[0]) < set(circuit.names())
    whole = one.evaluate(circuit, [], minimality=1000).minimality
    assert [effect.edge for effect in whole] == circuit.names()
    assert one.evaluate(circuit.top(0), [], minimality=5).minimality == []


def test_an_edge_that_reaches_nothing_has_no_effect() -> None:
    one = make_evaluator()
    names = ["input->a0.h1<v>", "a0.h1->logits", "input->m1"]  # no edge leads on from m1
    found = one.evaluate(Circuit.from_names(one.graph, names), [], minimality=3)
    effects = {effect.edge: effect.effect for effect in found.minimality}
    assert effects["input->m1"] == (0, 0, 0)
    (own,) = found.curve("own")
    for name in names[:2]:
        assert effects[name].value == pytest.approx(own.faithfulness) != 0


def test_effects_and_their_values_are_saved() -> None:
    one = make_evaluator()
    found = {"test": [one.evaluate(some_circuit(one), [0.1], minimality=3), one.evaluate(some_circuit(one, 7), [])]}
    file = PromptValues(write_prompt_table(found))
    for evaluation in found["test"]:
        described = json.loads(json.dumps(evaluation.to_dict(), allow_nan=False))
        taken = file.take(list(described["full"]), len(described["points"] + described["minimality"]), len(LENGTHS))
        again = Evaluation.from_dict(described, taken)
        assert again == evaluation
        for effect in evaluation.minimality:
            assert again.per_prompt(effect).tolist() == evaluation.per_prompt(effect).tolist()
    file.finish()
    table = pd.read_parquet(io.BytesIO(write_prompt_table(found)))
    for effect in found["test"][0].minimality:
        rows = table[(table.ranking == f"without {effect.edge}") & (table.measure == "kl")]
        assert rows.value.tolist() == found["test"][0].per_prompt(effect).tolist()
        assert set(rows.edges) == {39}


@pytest.mark.parametrize("count", [-1, 1.5, True, "20", None])
def test_a_number_of_edges_is_checked(count: object) -> None:
    with pytest.raises(UsageError, match="Give the number of edges"):
        check_minimality(count, [])  # type: ignore[arg-type]


def test_a_ranking_has_no_edges_of_its_own() -> None:
    model = tiny("gpt2")
    ranking = Circuit.from_scores(model.graph, torch.rand(len(model.graph), dtype=torch.float64))
    with pytest.raises(UsageError, match="is a ranking: it has no edges"):
        evaluate(model, ranking, random_batch(), minimality=3)
    with pytest.raises(UsageError, match="is a ranking: it has no edges"):
        make_evaluator().evaluate(ranking, minimality=3)


def test_evaluate_samples_edges() -> None:
    model = tiny("gpt2")
    circuit = Circuit.from_names(model.graph, ["input->logits", "m0->logits"])
    found = evaluate(model, circuit, random_batch(), sizes=[], minimality=5)
    assert [effect.edge for effect in found.minimality] == circuit.names()
