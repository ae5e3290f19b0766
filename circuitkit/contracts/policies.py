"""What every precision policy must do: checks of one policy, on one model."""

import itertools
from collections.abc import Callable

import torch

from circuitkit.contracts.model_state import ModelState
from circuitkit.contracts.outcome import NotApplicableError, refuse
from circuitkit.contracts.weights import Weights, all_weights, are_equal, mix_weights, prepare_policy
from circuitkit.data.objectives import LogitDifference
from circuitkit.data.prompt_batch import PromptBatch
from circuitkit.engine.ablation import Resample
from circuitkit.engine.attribution.edge_scores import attribute
from circuitkit.engine.prepared_batch import PreparedBatch
from circuitkit.models.circuit_model import CircuitModel
from circuitkit.precision.base import FullPrecision, PrecisionPolicy

Make = Callable[[], PrecisionPolicy]
_RESTORE = "Restore on exit what was in effect before, also after an exception (`try` and `finally`)."


def check_low_precision_writers(make: Make, model: CircuitModel) -> None:
    """Check that the writers it names as in low precision are those whose weights differ, whatever is investigated.

    Raises:
        ContractError: they are not.
    """
    full = all_weights(model)
    with prepare_policy(make(), model) as policy:
        low, at_rest = all_weights(model), policy.low_precision_writers()
        for key, weight in low.items():
            if key not in full or weight.shape != full[key].shape or weight.dtype != full[key].dtype:
                refuse(f"The weight {key} has another shape or dtype than the model's own.", "Keep both.")
            if not bool(weight.isfinite().all()):
                refuse(f"The weight {key} is not finite.", "Check the scale.")
        if at_rest is None and not are_equal(low, full):
            refuse("Weights differ, and `low_precision_writers` returns None.", "Return which writers, bool [W].")
        with policy.full():
            if not are_equal(all_weights(model), full):
                refuse("Inside `full()`, weights differ from the model's own.", "Give these out, bit for bit.")
            if at_rest is not None and bool(policy.low_precision_writers().any()):
                refuse("Inside `full()`, `low_precision_writers` names some.", "Return all False there.")
        for reader in range(model.graph.n_readers):
            with policy.investigate([reader]):
                _check_investigated(policy, model, reader, full, low)
        if not are_equal(all_weights(model), low):
            refuse("After `investigate`, weights are not as before.", _RESTORE)


def _check_investigated(policy: PrecisionPolicy, model: CircuitModel, reader: int, full: Weights, low: Weights) -> None:
    graph, lowered = model.graph, policy.low_precision_writers()
    name = graph.reader_names[reader]
    if lowered is None:
        if not are_equal(all_weights(model), full):
            refuse(f"While reader {name} is investigated, weights differ.", "Return which writers, bool [W].")
        return
    if lowered.dtype != torch.bool or lowered.shape != (graph.n_writers,):
        refuse(
            f"`low_precision_writers` returns {lowered.dtype} {list(lowered.shape)}.",
            f"Return bool [{graph.n_writers}].",
        )
    if lowered[0]:
        refuse("The writer `input` is among `low_precision_writers`.", "Embeddings are in full precision: False.")
    if not are_equal(all_weights(model), mix_weights(model, lowered, full, low)):
        refuse(
            f"While reader {name} is investigated, other weights are low than `low_precision_writers` says.",
            "Give out the low weights of exactly these writers.",
        )
    if policy.depends_on_reader and lowered[list(graph.writers_fed_by(reader))].any():
        refuse(
            f"While reader {name} is investigated, a writer that it feeds is in low precision.",
            "Put the writers in `graph.writers_fed_by(reader)` in full precision, or set depends_on_reader = False.",
        )


def check_contexts(make: Make, model: CircuitModel) -> None:
    """Check that `investigate` and `full` nest, and restore what was before, also after an exception.

    Raises:
        ContractError: they do not.
    """
    graph, full = model.graph, all_weights(model)
    one, other = graph.parse_reader("a0.h0<q>"), graph.reader_index("v", graph.layers - 1, graph.kv_readers - 1)
    with prepare_policy(make(), model) as policy:
        low = all_weights(model)
        with policy.investigate([other]):
            alone = all_weights(model)
        with policy.investigate([one]):
            outer = all_weights(model)
            with policy.investigate([other]):
                _check_weights(model, alone, "An inner `investigate` does not replace the outer one")
            _check_weights(model, outer, "After an inner `investigate`, the outer one is not in effect")
            _raise_inside(policy.investigate([other]))
            _check_weights(model, outer, "After an exception in `investigate`, the outer one is not in effect")
            with policy.full():
                with policy.full():
                    pass
                _check_weights(model, full, "After an inner `full`, the outer one is not in effect")
                with policy.investigate([other]):
                    _check_weights(model, full, "`investigate` inside `full` lowers weights")
            _check_weights(model, outer, "After `full`, the outer `investigate` is not in effect")
        _raise_inside(policy.full())
        _check_weights(model, low, "After an exception in `full`, weights are not as before")


def _check_weights(model: CircuitModel, wanted: Weights, problem: str) -> None:
    if not are_equal(all_weights(model), wanted):
        refuse(f"{problem}.", _RESTORE)


def _raise_inside(context: object) -> None:
    class _InsideError(Exception):
        pass

    try:
        with context:  # type: ignore[attr-defined]
            raise _InsideError
    except _InsideError:
        return
    refuse("A context swallows an exception.", _RESTORE)


def check_groups(make: Make, model: CircuitModel) -> None:
    """Check that every reader is in one group, and that groups are small enough for some writers to stay low.

    Raises:
        ContractError: one is in none, or in two; or nothing is low while any group is investigated.
    """
    groups = [list(group) for group in make().groups(model.graph)]
    if sorted(itertools.chain(*groups)) != list(range(model.graph.n_readers)) or not all(groups):
        refuse("`groups` does not yield every reader once.", "Yield sets that cover `range(graph.n_readers)`.")
    with prepare_policy(make(), model) as policy:
        low = policy.low_precision_writers()
        if low is None or not bool(low.any()) or not policy.depends_on_reader:
            return
        if len(groups) == 1 and model.graph.kv_heads == 1:
            return  # there is nothing smaller to yield
        for group in groups:
            with policy.investigate(group):
                left = policy.low_precision_writers()
            if left is not None and bool(left.any()):
                return
    refuse(
        "While any of its `groups` is investigated, no writer is in low precision: attribution would round nothing.",
        "Yield smaller sets, such as the readers of one head of every layer.",
    )


def check_closing(make: Make, model: CircuitModel) -> None:
    """Check that closing restores every weight, bit for bit, and that a closed policy can be used again.

    Raises:
        ContractError: it does not.
    """
    full, policy = all_weights(model), make()
    for _ in range(2):
        before = ModelState(model)
        with prepare_policy(policy, model):
            pass
        policy.close()  # closing twice does nothing
        before.check()
        if not are_equal(all_weights(model), full):
            refuse("After `close`, the engine gets other weights than before.", "Put `model.weights` back.")


def check_effects(make: Make, model: CircuitModel, batch: PromptBatch) -> str:
    """Check that effects are finite under it, that `full` gives the full model's logits, and that footprints count.

    Returns:
        A remark, or nothing.

    Raises:
        ContractError: they are not.
    """
    clean = model.logits(model.final_stream(batch)).all()
    plain = attribute(PreparedBatch(model, batch, LogitDifference(), Resample()))
    with prepare_policy(make(), model) as policy:
        effects = attribute(PreparedBatch(model, batch, LogitDifference(), Resample(), policy))
        with policy.full():
            found = model.logits(model.final_stream(batch)).all()
        counted, changes = policy.footprint(), policy.low_precision_writers() is not None
        if not all(isinstance(count, int) and count >= 0 for count in counted.values()):
            refuse(f"`footprint` returns {counted!r}.", "Count bytes: `high`, `low`, `full`.")
        if not set(counted) <= {"high", "low", "full"}:
            refuse(f"`footprint` counts {sorted(counted)}.", "Count bytes of `high`, `low` and `full`.")
    if not bool(effects.isfinite().all()):
        refuse("First-order effects under it are not finite.", "Check the scale of the weights.")
    tolerance = (1e-12 if model.dtype == torch.float64 else 1e-5) * float(clean.abs().max())
    if not torch.allclose(found, clean, rtol=0, atol=tolerance):
        refuse("Inside `full()`, the logits are not the full model's.", "Give out the model's own weights there.")
    if isinstance(make(), FullPrecision) and not torch.equal(effects, plain):
        refuse("Full precision changes effects.", "Change nothing.")
    return "it does not count the bytes that it holds (`footprint`)" if changes and not counted else ""


def check_has_effect(make: Make, model: CircuitModel) -> None:
    """Check that it changes some weight, if it says so.

    Raises:
        ContractError: it changes none, although it names writers.
        NotApplicableError: it changes nothing.
    """
    full = all_weights(model)
    with prepare_policy(make(), model) as policy:
        low, writers = all_weights(model), policy.low_precision_writers()
    if writers is None or not bool(writers.any()):
        raise NotApplicableError("it names no writers in low precision")
    if are_equal(low, full):
        refuse("It names writers in low precision, but no weight differs.", "Put your weights in `model.weights`.")
