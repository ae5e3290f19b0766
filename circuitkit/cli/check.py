"""`circuitkit check`: whether a prompt file can be used, or a class of one's own keeps its contract."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

from jsonargparse import ArgumentParser

from circuitkit.cli.arguments import current_folder_on_path, parse, silence_libraries
from circuitkit.errors import CircuitKitError, UsageError
from circuitkit.storage.files import expand_home
from circuitkit.storage.text import parse_yaml

_PROMPTS = 64
"""How many prompts of a file the model is tried on."""
_FILES = (".csv", ".jsonl", ".json")


def run(parser: ArgumentParser, arguments: list[str]) -> int:
    """Check, print one screen, and return 1 if something is wrong."""
    parser.add_argument(
        "what",
        type=str,
        help="a prompt file (.csv, .jsonl, .json); or a strategy, task, policy, objective, ablation or family: a class "
        "path, a registered name, or '{class_path: ..., init_args: ...}'",
    )
    parser.add_argument(
        "--model",
        type=str | None,
        default=None,
        help="of the prompts; or for a class to work on, by default toy; for a family, tiny random ones of its types",
    )
    parser.add_argument(
        "--long_answers",
        type=str,
        default="refuse",
        help="with a prompt file: refuse answers of several tokens, or first_differing: their first token counts at "
        "which right and wrong answers differ",
    )
    values = parse(parser, arguments)
    silence_libraries()
    if Path(values["what"]).suffix.lower() in _FILES:
        return _check_file(**values)
    with current_folder_on_path():
        return _check_class(values["what"], values["model"])


def _check_file(what: str, model: str | None, long_answers: str) -> int:
    if model is None:
        raise UsageError(
            "The model is missing: prompts are checked for one model.",
            f"Name it: `circuitkit check {what} --model NAME`.",
        )
    if not expand_home(Path(what)).exists():
        raise UsageError(f"There is no file {what!r}.", "Give the path of a prompt file.")
    from circuitkit.evaluation.suitability import measure_suitability
    from circuitkit.report.prompt_check import prompt_check_text
    from circuitkit.run.run_config import load_model
    from circuitkit.tasks.answer_tokens import check_long_answers
    from circuitkit.tasks.file_check import Finding, check_file

    loaded = load_model(model)
    if loaded.tokenizer is None:
        raise UsageError(f"The model {model!r} has no tokenizer.", "Prompts of text need one.")
    check = check_file(what, loaded.tokenizer, check_long_answers(long_answers))
    found = None
    batch = check.batch
    if batch is not None and not batch.unchanged.all():
        changed_first = batch[batch.unchanged.int().argsort(stable=True)]  # some edge matters in those
        try:
            found = measure_suitability(loaded, changed_first[:_PROMPTS])
        except UsageError as error:  # such as prompts that are too long for the model
            check = replace(check, problems=[*check.problems, Finding("", error.problem, error.remedy)])
    print(prompt_check_text(what, loaded, check, found))
    return CircuitKitError.exit_code if check.problems else 0


def _check_class(what: str, model: str | None) -> int:
    spec = parse_yaml(what, "The class") if what.lstrip().startswith("{") else what
    from circuitkit.contracts.checking import check_class

    states = Counter[str]()
    for outcome in check_class(spec, model):
        states[outcome.state] += 1
        print(f"{outcome.state:<16}{outcome.what}{f': {outcome.text}' if outcome.text else ''}", flush=True)
    print(", ".join(f"{count} {state}" for state, count in states.items()))
    return CircuitKitError.exit_code if states["failed"] or not states["passed"] else 0
