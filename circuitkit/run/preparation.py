"""What a run prepares before it searches: prompts, the fitted ablation, and the `Discovery` for the strategy."""

from collections.abc import Callable
from functools import lru_cache

import torch
from lightning.fabric import Fabric

from circuitkit.data.prompt_batch import PromptBatch
from circuitkit.engine.prepared_batch import reference_batches
from circuitkit.engine.processes import Processes
from circuitkit.evaluation.chance import chance_notes, model_accuracy
from circuitkit.evaluation.prompts import make_prompts
from circuitkit.models.circuit_model import CircuitModel
from circuitkit.run import launch
from circuitkit.run.run_config import RunConfig
from circuitkit.strategies.discovery import Discovery


def prepare(
    run_config: RunConfig,
    model: CircuitModel,
    fabric: Fabric,
    processes: Processes,
    memory_budget: int | None,
) -> tuple[Discovery, dict[str, PromptBatch]]:
    """Make the `Discovery` that the strategy receives, and the prompts of train and the other splits.

    Args:
        run_config: of the run, with the splits to evaluate on.
        model: on the run's device.
        fabric: launched.
        processes: of the run.
        memory_budget: as given by the user.

    Raises:
        UsageError: the prompts do not fit the model, the objective, the ablation or the processes.
    """
    prompts = run_config.make_prompts(model, run_config.splits)
    train = prompts["train"]
    launch.check_prompts(len(train), processes)
    for batch in prompts.values():  # now, not only after the search
        run_config.objective.check(batch)
    budget = launch.memory_for_each(model.device, memory_budget, processes)
    run_config.ablation.fit(model, reference_batches(model, train, budget))
    for batch in prompts.values():
        run_config.ablation.check(batch)
    run = Discovery(
        model=model,
        batches=[train],
        objective=run_config.objective,
        ablation=run_config.ablation,
        policy=run_config.precision,
        fabric=fabric,
        generator=torch.Generator().manual_seed(run_config.seed),
        memory_budget=budget,
        given_budget=memory_budget,
        processes=processes,
        supply=_supply(run_config, model, train),
    )
    for note in chance_notes(model_accuracy(model, train, budget), train, "train"):
        run.note(note)
    return run, prompts


def _supply(run_config: RunConfig, model: CircuitModel, own: PromptBatch) -> Callable[[int], PromptBatch] | None:
    """Return what adds other prompts of the train split to the run's own; None if there are no others."""
    task, seed = run_config.task, run_config.seed
    if isinstance(task, PromptBatch):
        return None

    @lru_cache(maxsize=1)  # a strategy checks them first, and then uses them
    def supply(count: int) -> PromptBatch:
        most, wanted = task.available(model.tokenizer, "train", seed), count + len(own)
        batch = make_prompts(model, task, "train", wanted if most is None else min(wanted, most), seed)
        known = set(own.clean_rows())
        others = [row for row, ids in enumerate(batch.clean_rows()) if ids not in known][: count - len(own)]
        found = PromptBatch.join([own, batch[torch.tensor(others, dtype=torch.int64)]]) if others else own
        run_config.objective.check(found)
        run_config.ablation.check(found)
        return found

    return supply
