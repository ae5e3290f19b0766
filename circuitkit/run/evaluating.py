"""The evaluation at the end of a run: of every circuit, on every split that was asked for."""

from collections.abc import Mapping
from dataclasses import replace

from circuitkit.data.prompt_batch import PromptBatch
from circuitkit.engine.memory import explain_out_of_memory
from circuitkit.errors import CircuitKitError
from circuitkit.evaluation.answers import AnswerCollector
from circuitkit.evaluation.evaluator import Evaluator
from circuitkit.evaluation.generalization import generalization_notes
from circuitkit.evaluation.sizes import own_sizes
from circuitkit.run.result import Result
from circuitkit.run.run_config import RunConfig
from circuitkit.run.smallest import reached_notes
from circuitkit.strategies.discovery import TRAIN_PROMPTS, Discovery


def evaluate_circuits(
    result: Result,
    run_config: RunConfig,
    run: Discovery,
    prompts: Mapping[str, PromptBatch],
    memory_budget: int | None,
) -> Result:
    """Return the result with the evaluations; if one fails, the circuits are kept and a note says why.

    Answers are recorded of the test split, or of the first if that is not evaluated.

    Args:
        result: of the search.
        run_config: of the run, with the sizes, splits and rankings to evaluate.
        run: whose callbacks are told how far the evaluation is (`on_evaluation_progress`).
        prompts: by split.
        memory_budget: as given by the user.
    """
    parts, seed = (run_config.objective, run_config.ablation), run_config.seed
    shown = next((split for split in ("test", *run_config.splits) if split in run_config.splits), None)
    count, before = len(run_config.splits) * len(result.circuits), 0

    def report(done: int, total: int) -> None:
        run.fabric.call("on_evaluation_progress", run, before * total + done, count * total)

    try:
        with explain_out_of_memory():
            for split in run_config.splits:
                batch = prompts[split]
                evaluator = Evaluator.prepare(run.model, batch, *parts, split, seed, memory_budget=memory_budget)
                answers = AnswerCollector(evaluator, run.model.tokenizer)
                found = []
                for number, circuit in enumerate(result.circuits, 1):
                    sizes = own_sizes(circuit) if run_config.sizes is None else run_config.sizes
                    found.append(evaluator.evaluate(circuit, sizes, run_config.rankings, report=report))
                    if split == shown:
                        answers.add(number, circuit, found[-1])
                    before += 1
                result.evaluations[split] = found
                if split == shown:
                    result = replace(result, answers=answers.finish())
                del evaluator, answers  # before the next split's captures
    except CircuitKitError as error:
        result.notes.append(f"The circuits could not be evaluated: {error}")
    result.notes.extend(generalization_notes(result.evaluations, result.metrics.get(TRAIN_PROMPTS)))
    if run_config.faithfulness is not None:
        result.notes.extend(reached_notes(result.evaluations, run_config.faithfulness, result.metrics))
    return result
