"""Torch's global state around a call (default dtype, grad mode, inference mode) changes no result."""

import ast
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from pathlib import Path

import pytest
import torch
from contracts.test_every_strategy import NAMES, make
from support.tiny import random_batch, tiny_hf

import circuitkit
from circuitkit import CircuitModel, Discoverer
from circuitkit.errors import CircuitKitError
from circuitkit.precision.pahq import PAHQ
from circuitkit.run.result import Result

pytestmark = pytest.mark.filterwarnings("ignore:This precision cannot decide")


@contextmanager
def default_float64() -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@contextmanager
def medium_products() -> Iterator[None]:
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        yield
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision(before)


STATES: dict[str, list[Callable[[], object]]] = {
    "plain": [],
    "default float64": [default_float64],
    "no_grad": [torch.no_grad],
    "inference_mode": [torch.inference_mode],
    "inference_mode and default float64": [torch.inference_mode, default_float64],
    "another device, autocast and fast products": [
        lambda: torch.device("meta"),
        lambda: torch.autocast("cpu", torch.bfloat16),
        medium_products,
    ],
}
POLICIES: dict[str, Callable[[], PAHQ | None]] = {"own": lambda: None, "nf4": lambda: PAHQ("nf4", "attention+mlp")}
CASES = [
    (name, policy)
    for policy in POLICIES
    for name in NAMES
    if policy == "own" or name in ("acdc", "eap", "edge_pruning")
]


@contextmanager
def state(name: str) -> Iterator[None]:
    with ExitStack() as stack:
        for enter in STATES[name]:
            stack.enter_context(enter())  # type: ignore[arg-type]
        before = torch.is_grad_enabled(), torch.is_inference_mode_enabled(), torch.get_default_dtype()
        yield
        assert (torch.is_grad_enabled(), torch.is_inference_mode_enabled(), torch.get_default_dtype()) == before


@cache
def result(strategy: str, policy: str, around: str) -> Result:
    """Load the toy model, find and evaluate a circuit, all in one state."""
    with state(around):
        model = CircuitModel.from_pretrained("toy")
        run = Discoverer("cpu", callbacks=[]).run
        found = run(model, "ioi", make(strategy), precision=POLICIES[policy](), examples=4, sizes=(0.1, 0.5))
        assert not any(parameter.is_inference() for parameter in model.model.parameters())
    return found


@pytest.mark.parametrize("around", [name for name in STATES if name != "plain"])
@pytest.mark.parametrize(("strategy", "policy"), CASES)
def test_no_state_around_a_run_changes_its_result(strategy: str, policy: str, around: str) -> None:
    found, expected = result(strategy, policy, around), result(strategy, policy, "plain")
    assert torch.equal(found.circuit.scores, expected.circuit.scores)
    assert found.circuit.scores.dtype == expected.circuit.scores.dtype
    assert torch.equal(found.circuit.kept, expected.circuit.kept)
    assert found.evaluations == expected.evaluations
    assert not found.circuit.scores.is_inference()


@cache
def other_calls(around: str) -> list[object]:
    """Everything else that computes: prompts from ids, ablations, dry runs, policies by hand, evaluation."""
    with state(around):
        batch = random_batch(lengths=(6, 7, 5, 7))
    model = CircuitModel.from_model(tiny_hf("llama", dtype=torch.float32))
    with state(around):
        discover = Discoverer("cpu", callbacks=[]).run
        mean = discover(model, batch, make("eap"), ablation="mean", objective="answer_log_probability", sizes=())
        policy = PAHQ("fp4", "attention+mlp")
        policy.prepare(model)
        low = model.answer_logits(batch)
        policy.close()
        dry = Discoverer("cpu", callbacks=[]).dry_run(model, batch, make("acdc"))
        evaluation = circuitkit.evaluate(model, mean.circuit.top(9), batch, ablation="mean", sizes=(0.2,))
        model.refresh()
        assert not any(parameter.is_inference() for parameter in model.model.parameters())
    # and outside of it, with what was made in it
    later = discover(model, batch, make("eap_ig"), sizes=())
    return [
        mean.circuit.scores.tolist(),
        low.tolist(),
        dry.edges,
        dry.weights,
        evaluation,
        later.circuit.scores.tolist(),
    ]


@pytest.mark.parametrize("around", [name for name in STATES if name != "plain"])
def test_no_state_around_other_calls_changes_what_they_return(around: str) -> None:
    assert other_calls(around) == other_calls("plain")


TABLES = """
import torch
torch.set_default_dtype(torch.float64)
from circuitkit import CircuitModel
from circuitkit.precision.pahq import PAHQ
policy = PAHQ("nf4")
policy.prepare(CircuitModel.from_pretrained("toy"))
policy.close()
from bitsandbytes.backends import utils
tables = [table for value in vars(utils).values() if isinstance(value, dict) for table in value.values()]
assert all(table.dtype == torch.float32 for table in tables if isinstance(table, torch.Tensor)), tables
assert torch.get_default_dtype() == torch.float64
"""


def test_tables_that_bitsandbytes_keeps_are_not_made_in_the_default_dtype() -> None:
    """The first use in a process decides their dtype for all later ones."""
    subprocess.run([sys.executable, "-c", TABLES], check=True)


def test_a_model_made_under_inference_mode_is_refused_in_one_line() -> None:
    with torch.inference_mode():
        hf = tiny_hf("llama")
        with pytest.raises(CircuitKitError, match=r"made under torch\.inference_mode.*outside"):
            CircuitModel.from_model(hf)
    with pytest.raises(CircuitKitError, match=r"made under torch\.inference_mode.*outside"):
        CircuitModel.from_model(hf)


MAKERS = {
    "tensor", "zeros", "ones", "empty", "full", "rand", "randn", "randint", "randperm", "normal", "arange", "linspace",
    "logspace", "eye", "empty_strided", "scalar_tensor", "as_tensor",
}  # fmt: skip
PACKAGE = Path(circuitkit.__file__).parent


@pytest.mark.parametrize("file", sorted(PACKAGE.rglob("*.py")), ids=lambda file: str(file.relative_to(PACKAGE)))
def test_every_tensor_made_names_its_dtype(file: Path) -> None:
    """So that the default dtype decides nothing."""
    calls = [node for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.Call)]
    unnamed = [
        f"line {call.lineno}: {ast.unparse(call)[:70]}"
        for call in calls
        if isinstance(call.func, ast.Attribute)
        and call.func.attr in MAKERS
        and ast.unparse(call.func.value) == "torch"
        and "dtype" not in {keyword.arg for keyword in call.keywords}
    ]
    assert not unnamed
