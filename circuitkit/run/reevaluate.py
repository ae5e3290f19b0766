"""Evaluation of a finished run's circuits, with other sizes, prompts or seeds."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

from circuitkit.circuit.circuit import Circuit
from circuitkit.config import specs
from circuitkit.config.checks import Examples, check_examples
from circuitkit.config.trust import ALLOW_CODE, trust_registered_only
from circuitkit.data.hashes import hash_prompts
from circuitkit.data.prompt_batch import PromptBatch
from circuitkit.engine.memory import explain_out_of_memory
from circuitkit.errors import UsageError
from circuitkit.evaluation.evaluation import CURVES, Evaluation, Ranking
from circuitkit.evaluation.evaluator import Evaluator, check_curves, make_evaluator
from circuitkit.evaluation.minimality import check_minimality
from circuitkit.evaluation.prompt_table import write_prompt_table
from circuitkit.evaluation.prompts import make_prompts
from circuitkit.evaluation.sizes import SIZES
from circuitkit.interrupts import taking_turns
from circuitkit.models.circuit_model import CircuitModel
from circuitkit.run.content import CONTENT, describe_content, differences
from circuitkit.run.discoverer import Discoverer
from circuitkit.run.result import Result
from circuitkit.run.run_config import SPLITS, check_splits, load_model, move_to
from circuitkit.run.run_folder import EVALUATION
from circuitkit.storage.files import write_atomically
from circuitkit.storage.owned_folder import lock_folder
from circuitkit.storage.text import to_json
from circuitkit.tasks.base import Split, Task
from circuitkit.torch_state import usual_torch_state

_PROMPTS = f"{PromptBatch.__module__}.{PromptBatch.__qualname__}"


@taking_turns()
@usual_torch_state()
def reevaluate(
    run: str | Path,
    *,
    sizes: Sequence[float] | None = None,
    rankings: Sequence[Ranking] = CURVES,
    splits: Sequence[Split] = SPLITS,
    examples: int | Sequence[int] | None = None,
    seed: int | None = None,
    minimality: int = 0,
    accelerator: str = "auto",
    memory_budget: int | str | None = None,
    allow_code: bool = False,
    report: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[list[Circuit], dict[str, list[Evaluation]]]:
    """Evaluate the circuits of a run folder with the run's own model, task, objective and ablation.

    Args:
        run: the folder; `evaluation.json` and `evaluation.parquet` (the value of every prompt) in it are replaced.
        sizes: fractions of the edges; by default MIB's. Empty: only the circuits' own edges.
        rankings: how circuits of these sizes are chosen (see `Point`).
        splits: those of the task to evaluate on.
        examples: maximum number of prompts per split, one number for all or three, for train, validation and test; by
            default the run's.
        seed: likewise.
        minimality: how many edges to sample from each circuit, all if it has fewer; each is removed alone.
        accelerator, memory_budget: as in `Discoverer`.
        allow_code: also import classes that no installed package registers, as the run's config names them. It may
            name any code: allow only what comes from people whom you trust.
        report: called after each run of a circuit with the numbers of finished runs and of about all.

    Returns:
        The circuits, and by split one evaluation per circuit.

    Raises:
        UsageError: the folder is not a finished run, the run's task was a `PromptBatch`, its config names a class that
            no installed package registers, `minimality` is asked for and a circuit is a mere ranking, or another
            process is writing to the folder.
        CircuitKitError: a file is damaged, the model cannot be loaded, memory runs out, or the folder cannot be
            written.
    """
    sizes = SIZES if sizes is None else sizes
    check_curves(sizes, rankings)
    check_splits(splits)
    if not splits:
        raise UsageError("No split is given.", "Name at least one of train, validation, test.")
    result = Result.load(run)
    check_minimality(minimality, result.circuits)
    config = result.config
    if config["task"].get("class_path") == _PROMPTS:
        raise UsageError(
            f"The run in {str(run)!r} was made with a PromptBatch, which the folder does not hold.",
            "Evaluate it in Python: circuitkit.evaluate(model, circuit, batch).",
        )
    seed = config["seed"] if seed is None else seed
    with trust_registered_only(not allow_code, ALLOW_CODE):
        task, objective, ablation = (
            specs.make(kind, config[key])
            for kind, key in (("tasks", "task"), ("objectives", "objective"), ("ablations", "ablation"))
        )
    discoverer = Discoverer(accelerator=accelerator, seed=seed, memory_budget=memory_budget)
    model = load_model(specs.described_model(config))
    numbers = check_examples(config["examples"] if examples is None else examples)
    model = move_to(discoverer.device, model)
    make = partial(
        make_evaluator,
        model,
        task,
        objective,
        ablation,
        examples=numbers,
        seed=seed,
        memory_budget=discoverer.memory_budget,
    )
    with lock_folder(Path(run)), explain_out_of_memory():
        changes = _changes(config, model, task, numbers, seed)
        found = _evaluate(result.circuits, splits, make, (sizes, rankings, minimality), report)
        for evaluation in chain.from_iterable(found.values()):
            evaluation.notes.extend(changes)
        if "train" in found:
            anew = _drawn_anew(config, model, task, numbers, seed)
            for evaluation in found["train"]:
                evaluation.notes.extend(anew)
        described = {split: [evaluation.to_dict() for evaluation in of_split] for split, of_split in found.items()}
        write_atomically(Path(run) / f"{EVALUATION}.parquet", write_prompt_table(found))
        write_atomically(Path(run) / f"{EVALUATION}.json", to_json({"seed": seed, "evaluations": described}))
    return result.circuits, found


def _evaluate(
    circuits: Sequence[Circuit],
    splits: Sequence[Split],
    make: Callable[..., Evaluator],
    wanted: tuple[Sequence[float], Sequence[Ranking], int],
    report: Callable[[int, int], None],
) -> dict[str, list[Evaluation]]:
    """Evaluate all circuits on all splits: sizes, rankings and minimality as `wanted`."""
    found: dict[str, list[Evaluation]] = {split: [] for split in splits}
    count = len(splits) * len(circuits)

    def report_all(before: int, done: int, total: int) -> None:
        report(before * total + done, count * total)

    for number, split in enumerate(splits):
        evaluator = make(split=split)
        for before, circuit in enumerate(circuits, number * len(circuits)):
            found[split].append(evaluator.evaluate(circuit, *wanted, partial(report_all, before)))
        del evaluator  # before the next split's captures
    return found


def _changes(config: dict[str, Any], model: CircuitModel, task: Task, examples: Examples, seed: int) -> list[str]:
    """Say what the run computed with that is not the same now, as far as its configuration tells."""
    recorded = config.get(CONTENT)
    if not isinstance(recorded, Mapping):
        return []
    if seed != config["seed"]:
        return [
            f"Seed {seed} deals other splits than the run's seed {config['seed']}: some of these prompts may be among "
            "those that the circuits were found on."
        ]
    prompts: dict[str, PromptBatch] = {}
    if (examples.plain, seed) == (config["examples"], config["seed"]):
        prompts = {split: make_prompts(model, task, split, examples.of(split), seed) for split in SPLITS}
    changed = differences(recorded, describe_content(model, prompts))
    return [f"The circuits were found with {', '.join(changed)}."] if changed else []


def _drawn_anew(config: dict[str, Any], model: CircuitModel, task: Task, examples: Examples, seed: int) -> list[str]:
    """Say that another number of train prompts are other prompts than those that the run used."""
    recorded = config.get(CONTENT)
    if not isinstance(recorded, Mapping) or seed != config["seed"] or examples.plain == config["examples"]:
        return []  # `_changes` says what another seed means, or other prompts of the same number
    prompts = make_prompts(model, task, "train", examples.of("train"), seed)
    if hash_prompts(prompts) == recorded.get("train"):
        return []
    note = f"These {len(prompts)} train prompts were drawn anew: not all of them are those the circuits were found on."
    return [note]
