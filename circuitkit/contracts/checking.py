"""Runs all checks of the kind of a class: what `circuitkit check my_package.MyStrategy` shows."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from circuitkit.config import registry, specs
from circuitkit.config.specs import Spec
from circuitkit.contracts import ablations, families, objectives, policies, resuming, strategies, tasks
from circuitkit.contracts.arguments import check_arguments
from circuitkit.contracts.outcome import ContractError, NotApplicableError, Outcome, describe, refuse, run_check
from circuitkit.contracts.prompts import random_prompts
from circuitkit.contracts.strategies import StrategyCase
from circuitkit.errors import CircuitKitError, UsageError
from circuitkit.models.backward_rule import PLAIN
from circuitkit.models.circuit_model import CircuitModel
from circuitkit.models.families.base import Family
from circuitkit.models.parity import ParityError
from circuitkit.strategies.gim import GIMRule
from circuitkit.strategies.relp import RelPRule
from circuitkit.torch_state import usual_torch_state

Checks = Iterator[tuple[str, Callable[[], Any]]]
_COMPARE = (
    "Compare with the forward pass of transformers' module: `rotary`, `scale`, `window`, norms, `head_norms`, "
    "`parallel`, soft-capping, and whether something else adds to the stream."
)
_ARGUMENTS = "has typed, documented arguments, which it keeps and checks"
POLICIES = ("full", "pahq", "all_low")
"""The precision policies that a strategy is checked under."""


def find_kind(spec: Spec | type) -> str:
    """Find the kind of a class, such as `strategies`, from its base class or the name it is registered under.

    Raises:
        UsageError: there is no such name or class, or it is of no kind.
    """
    found = spec
    if not isinstance(spec, type):
        path = _path(spec)
        if "." not in path:
            return _kind_of_name(path)
        found = _import(path)
    for kind in registry.KINDS:
        base = Family if kind == "families" else specs.base(kind)
        if isinstance(found, type) and issubclass(found, base):
            return kind
    raise UsageError(
        f"{spec.__name__ if isinstance(spec, type) else path!r} is no strategy, task, precision policy, objective, "
        "ablation or family.",
        "Name a class that inherits from circuitkit's DiscoveryStrategy, Task, PrecisionPolicy, Objective, Ablation or "
        "Family.",
    )


def _path(spec: Spec) -> str:
    path = spec if isinstance(spec, str) else spec.get("class_path") if isinstance(spec, Mapping) else None
    if not isinstance(path, str):
        raise UsageError(
            f"{spec!r} names no class.", "Give a name, a class path, or '{class_path: ..., init_args: ...}'."
        )
    return path


def _kind_of_name(name: str) -> str:
    for kind in registry.KINDS:
        if name in registry.names(kind) or registry.current_name(kind, name) != name:
            return kind
    for kind in registry.KINDS:
        if registry.names_of_class(kind, name):
            return kind
    known = [name for kind in registry.KINDS for name in registry.names(kind)]
    raise registry.unknown_name("strategy, task, precision policy, ... called", name, known)


def _import(path: str) -> Any:
    registry.refuse_file(path)
    try:
        return registry.import_object(path)
    except (ImportError, AttributeError, ValueError) as error:
        missing = error.name if isinstance(error, ModuleNotFoundError) else None
        remedy = "Run from the folder of its file, or install its package."
        if missing and not f"{path}.".startswith(f"{missing}."):
            remedy = f"Install what has the module {missing!r}, which it imports."
        raise UsageError(f"{path!r} cannot be imported: {error}.", remedy) from error
    except Exception as error:  # whatever a module of somebody else's raises
        raise UsageError(f"{path!r} cannot be imported. {describe(error)}", "Mend its module.") from error


def _import_family(spec: Spec) -> Any:
    if isinstance(spec, Mapping) and spec.get("init_args"):
        raise UsageError(f"A family takes no init_args, and {_path(spec)!r} has some.", "Leave them out.")
    path = _path(spec)
    if "." not in path:
        (name, *_) = [path] if path in registry.names("families") else registry.names_of_class("families", path)
        path = registry.class_path("families", name)
    return _import(path)


def check_class(spec: Spec | type, model: str | CircuitModel | None = None) -> Iterator[Outcome]:
    """Check a class against the contract of its kind, one check after the other.

    Args:
        spec: a registered name, a class path, a mapping with `class_path` and `init_args`, or a class.
        model: what it works on, small. Without one, `toy`; and for a family, tiny random models of its own types.

    Yields:
        How each check ended.

    Raises:
        UsageError: there is no such class, its arguments do not fit, or it is of no kind.
    """
    kind = find_kind(spec)
    if kind == "families":
        checks = _of_family(spec if isinstance(spec, type) else _import_family(spec), model)
    else:
        make = spec if isinstance(spec, type) else partial(specs.make, kind, spec)
        _try_to_make(make, spec.__name__ if isinstance(spec, type) else specs.label(kind, spec))
        checks = _OF_KIND[kind](make, _load("toy" if model is None else model))
    for what, check in checks:
        with usual_torch_state():
            outcome = run_check(what, check)
        yield outcome


def _try_to_make(make: Callable[[], Any], name: str) -> None:
    """Say what is wrong with the arguments, or with the constructor."""
    try:
        make()
    except CircuitKitError:
        raise
    except Exception as error:  # whatever a constructor of somebody else's raises
        raise UsageError(
            f"{name} cannot be made. {describe(error)}",
            "Mend its constructor, or give arguments that fit: '{class_path: ..., init_args: ...}'.",
        ) from error


def _of_strategy(make: Callable[[], Any], model: CircuitModel) -> Checks:
    prompts = random_prompts(model, lengths=(6, 7, 5, 7))
    case = StrategyCase(make, model, prompts, random_prompts(model, 7, lengths=(6, 5, 6)))
    yield _ARGUMENTS, partial(check_arguments, make, "strategies")
    for policy in POLICIES:
        what = f"scores every edge, and leaves the model and global state as they were (precision {policy})"
        yield what, partial(strategies.check_scores, case, policy)
    yield "finds the same circuit with the same seed", partial(strategies.check_same_seed, case)
    yield "finds the same circuit under a policy that rounds nothing", partial(_check_rounding, case)
    yield "keeps nothing of a run in the object", partial(resuming.check_forgetting, case)
    yield "finds circuits that are the same when read from the run's folder", partial(strategies.check_files, case)
    what = "ends with the same circuit if it is interrupted and resumed"
    yield what, partial(_check_resuming, case)
    low = replace(case, policy="pahq")
    yield f"{what} (precision pahq)", partial(resuming.check_resuming, low, in_the_middle_alone=True)
    yield "predicts its cost in a dry run", partial(strategies.check_cost, case)
    yield "finds sparser circuits at larger operating points", partial(strategies.check_operating_point, case)


def _skip(reason: str) -> None:
    raise NotApplicableError(reason)


def _check_rounding(case: StrategyCase) -> None:
    """Check with a copy of the model, whose weights are rounded."""
    name = case.model.name
    if name != "toy":
        raise NotApplicableError("the model's weights would have to be rounded: it is checked on toy")
    copied = strategies.round_weights(CircuitModel.from_pretrained(name, dtype="float64"))
    strategies.check_rounding_of_nothing(replace(case, model=copied))


def _check_resuming(case: StrategyCase) -> str:
    reports, saves = resuming.check_resuming(case)
    if saves or max(reports) == 1:  # one piece of work, with nothing to save before its end
        return ""
    return "it saves no state (`run.checkpoint`), and starts again"


def _of_policy(make: Callable[[], Any], model: CircuitModel) -> Checks:
    batch = random_prompts(model)
    yield _ARGUMENTS, partial(check_arguments, make, "precision")
    yield "names the writers whose weights are low", partial(policies.check_low_precision_writers, make, model)
    yield "changes weights, if it says so", partial(policies.check_has_effect, make, model)
    yield "nests `investigate` and `full`, also after exceptions", partial(policies.check_contexts, make, model)
    yield (
        "puts every reader into exactly one group, and keeps some writers low",
        partial(policies.check_groups, make, model),
    )
    yield "restores every weight, bit for bit, and can be used again", partial(policies.check_closing, make, model)
    yield "gives finite effects, and the full model inside `full`", partial(policies.check_effects, make, model, batch)


def _of_task(make: Callable[[], Any], model: CircuitModel) -> Checks:
    tokenizer = model.tokenizer
    if tokenizer is None:
        raise UsageError(f"The model {model.name!r} has no tokenizer.", "Choose one that has.")
    try:
        make().prompts(tokenizer, "train", 2, 0)
    except UsageError as error:
        advice = f"If the model {model.name} does not know its words, name another with --model."
        yield "makes prompts, and can be run", partial(_skip, f"it refused: {error} {advice}")
        return
    except Exception:  # the checks say what
        pass
    yield _ARGUMENTS, partial(check_arguments, make, "tasks")
    yield "refuses a model without a tokenizer in words", partial(tasks.check_no_tokenizer, make)
    yield "makes disjoint splits that the seed decides", partial(tasks.check_prompts, make, tokenizer)
    yield "counts the prompts of a split", partial(tasks.check_available, make, tokenizer)
    yield "can be previewed and run", partial(tasks.check_task_runs, make, model)


def _of_objective(make: Callable[[], Any], model: CircuitModel) -> Checks:
    one, several = random_prompts(model), random_prompts(model, positions=2, answers=3)
    yield _ARGUMENTS, partial(check_arguments, make, "objectives")
    what = "gives one value per prompt, with a gradient"
    yield what, partial(objectives.check_objective_values, make, model, several)
    yield "is lower for better answers", partial(objectives.check_objective_order, make, model, one)
    yield "can be searched by", partial(objectives.check_objective_runs, make, model, one)


def _of_ablation(make: Callable[[], Any], model: CircuitModel) -> Checks:
    batch = random_prompts(model, lengths=(6, 6, 6, 6))
    yield _ARGUMENTS, partial(check_arguments, make, "ablations")
    yield "gives every writer an output", partial(ablations.check_ablated_outputs, make, model, batch)
    yield "declares what its outputs are", partial(ablations.check_ablated_circuits, make, model, batch)
    yield "can be used in a run", partial(ablations.check_ablation_runs, make, model, batch)


def _of_family(kind: type[Family], model: str | CircuitModel | None) -> Checks:
    if model is not None:
        yield from _of_model(kind, model if isinstance(model, str) else model.name, lambda: _load(model))
        return
    types = [name for name in registry.names("families") if registry.load("families", name) is kind]
    if not types:
        yield "is registered for a model_type", _refuse_unregistered
    for name in types:
        yield from _of_model(kind, name, partial(families.wrap_tiny_model, name))


def _refuse_unregistered() -> None:
    refuse(
        "No entry point in the group circuitkit.families registers it.",
        "Register it for each model_type in pyproject.toml, and install the package.",
    )


def _of_model(kind: type[Family], name: str, wrap: Callable[[], CircuitModel]) -> Checks:
    """Check a family on one model, if that can be wrapped by it."""
    made: list[CircuitModel] = []

    def wrap_by_kind() -> None:
        try:
            model = wrap()
        except CircuitKitError as error:
            remedy = _COMPARE if isinstance(error, ParityError) else error.remedy
            raise ContractError(error.problem, remedy) from error
        if type(model.family) is not kind:
            refuse(
                f"The model {name!r} is wrapped by the family {type(model.family).__name__} and not by "
                f"{kind.__name__}: that is the one registered for its model_type.",
                "Name a model of a model_type that this family is registered for.",
            )
        made.append(model)

    yield f"computes the logits of the transformers model ({name})", wrap_by_kind
    for model in made:  # none, if the check above has failed
        batch = random_prompts(model)
        yield "gives out detached views of the parameters, by head", partial(families.check_views, model)
        yield "says what its norms are", partial(families.check_norms, model)
        yield "says what its MLPs are", partial(families.check_mlps, model)
        yield "has all of the model in its writers and constants", partial(families.check_ends, model, batch)
        for rule, by in ((PLAIN, ""), (RelPRule(), ", by RelP's rule"), (GIMRule(), ", by GIM's rule")):
            what = f"has first-order effects as autograd has them{by}"
            yield what, partial(families.check_gradients, model, batch, rule)
        yield "has the same exact effects by both editors", partial(families.check_editors, model, batch)


def _load(model: str | CircuitModel) -> CircuitModel:
    return model if isinstance(model, CircuitModel) else CircuitModel.from_pretrained(model)


_OF_KIND: dict[str, Callable[[Callable[[], Any], CircuitModel], Checks]] = {
    "strategies": _of_strategy,
    "precision": _of_policy,
    "tasks": _of_task,
    "objectives": _of_objective,
    "ablations": _of_ablation,
}
