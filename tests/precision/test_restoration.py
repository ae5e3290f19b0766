"""A model's weights come back whatever interrupts a run; what cannot be restored is said to be lost."""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import torch
from support.tiny import random_batch, tiny

import circuitkit
from circuitkit import Circuit, CircuitModel, Discoverer
from circuitkit.errors import CircuitKitError
from circuitkit.interrupts import hold_signals
from circuitkit.precision.free_memory import Freeable
from circuitkit.precision.pahq import PAHQ
from circuitkit.precision.weight_store import FileWeightStore
from circuitkit.strategies.base import DiscoveryStrategy
from circuitkit.strategies.discovery import Discovery

LAYERS = 2


def values(model: CircuitModel) -> dict[str, torch.Tensor]:
    return {name: parameter.detach().clone() for name, parameter in model.model.named_parameters()}


def equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


class Signals:
    """Sends Ctrl-C to this process from other threads, some seconds after `start`."""

    def __init__(self) -> None:
        self.delays: list[float] = []
        self.threads: list[threading.Timer] = []

    def start(self) -> None:
        delays, self.delays = self.delays, []
        for delay in delays:
            self.threads.append(threading.Timer(delay, os.kill, (os.getpid(), signal.SIGINT)))
            self.threads[-1].start()

    @contextmanager
    def all_sent(self) -> Iterator[None]:
        """Wait for all at the end; those that come late take effect then."""
        try:
            yield
        finally:
            with hold_signals():
                for thread in self.threads:
                    thread.join()


@pytest.fixture
def signals(monkeypatch: pytest.MonkeyPatch) -> Signals:
    """Signals from the first read on, in a store in which each read takes 20 ms: closing two layers takes 80 ms."""
    read, found = FileWeightStore.read, Signals()

    def slowly(*arguments: object) -> torch.Tensor:
        found.start()
        time.sleep(0.02)
        return read(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(FileWeightStore, "read", slowly)
    return found


@pytest.mark.parametrize("delays", [[0.01], [0.03], [0.05], [0.07], [0.01, 0.03], [0.01, 0.06], [0.03, 0.04, 0.05]])
def test_ctrl_c_while_a_policy_closes(delays: list[float], signals: Signals) -> None:
    model, policy = tiny("llama"), PAHQ("nf4", "attention+mlp")
    before = values(model)
    policy.prepare(model)
    signals.delays = delays

    def close() -> None:
        with signals.all_sent():
            policy.close()

    with pytest.raises(KeyboardInterrupt):
        close()
    assert equal(values(model), before)
    assert type(model.weights).__name__ == "ModuleWeights"


class Interrupted(DiscoveryStrategy):
    """Is interrupted in `discover`, and again while the run ends."""

    def __init__(self, signals: Signals, delays: list[float]) -> None:
        self.signals, self.delays = signals, delays

    def discover(self, run: Discovery) -> Circuit:
        self.signals.delays = self.delays
        self.signals.start()
        raise KeyboardInterrupt

    def teardown(self, run: Discovery) -> None:
        time.sleep(0.02)


@pytest.mark.parametrize("delays", [[0.01], [0.03], [0.05], [0.09], [0.01, 0.05], [0.01, 0.015, 0.05, 0.07]])
def test_ctrl_c_again_while_a_run_ends(delays: list[float], signals: Signals) -> None:
    model = tiny("llama", dtype=torch.float32)
    before = values(model)
    strategy = Interrupted(signals, delays)

    def run() -> None:
        with signals.all_sent():
            Discoverer("cpu", callbacks=[]).run(
                model, random_batch(), strategy, precision=PAHQ("bf16", "attention+mlp"), sizes=()
            )

    with pytest.raises(KeyboardInterrupt):
        run()
    assert equal(values(model), before)


@pytest.mark.parametrize("step", range(1, 200, 7))
def test_two_interrupts_at_every_stage_of_taking_and_giving_back(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second one follows the first at once, wherever `prepare` is."""
    model, policy = tiny("gpt2"), PAHQ("int8", "attention+mlp")
    before, calls = values(model), 0

    def count(method: Callable[..., object]) -> Callable[..., object]:
        def counted(*arguments: object, **more: object) -> object:
            nonlocal calls
            calls += 1
            if calls in (step, step + 1):
                signal.raise_signal(signal.SIGINT)
            return method(*arguments, **more)

        return counted

    for owner, name in (
        (FileWeightStore, "write"),
        (FileWeightStore, "read"),
        (FileWeightStore, "close"),
        (Freeable, "free"),
        (Freeable, "allocated"),
        (torch.Tensor, "copy_"),
        (torch.Tensor, "detach"),
    ):
        monkeypatch.setattr(owner, name, count(getattr(owner, name)))
    try:
        policy.prepare(model)
    except KeyboardInterrupt:
        assert policy.footprint() == {}
    else:
        try:
            policy.close()
        except KeyboardInterrupt:
            assert policy.footprint() == {}
    monkeypatch.undo()
    assert equal(values(model), before)


def test_what_cannot_be_read_is_said_to_be_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    """All other weights come back; the model refuses every further use."""
    model, policy, batch = tiny("llama", dtype=torch.float32), PAHQ("int8", "attention+mlp"), random_batch()
    circuit = circuitkit.discover(model, batch, "eap").circuit
    before, read = values(model), FileWeightStore.read

    def damaged(store: FileWeightStore, key: tuple[str, int], *rows: int) -> torch.Tensor:
        if key == ("attention", 0):
            raise OSError("Input/output error")
        return read(store, key, *rows)

    policy.prepare(model)
    monkeypatch.setattr(FileWeightStore, "read", damaged)
    with pytest.raises(CircuitKitError, match=r"weights of .*attention of layer 0.* were lost.*Input/output.*again"):
        policy.close()
    monkeypatch.undo()
    for name, value in values(model).items():
        lost = "layers.0.self_attn" in name
        assert value.numel() == 0 if lost else torch.equal(value, before[name])
    policy.close()  # there is nothing more to give back
    lost = pytest.raises(CircuitKitError, match=r"weights.*were lost.*[Ll]oad the model again")
    for use in (
        lambda: circuitkit.discover(model, batch, "eap"),
        lambda: circuitkit.discover(model, batch, "eap", precision="pahq"),
        lambda: Discoverer("cpu", callbacks=[]).dry_run(model, batch, "acdc"),
        lambda: circuitkit.evaluate(model, circuit, batch),
        lambda: model.answer_logits(batch),
        lambda: policy.prepare(model),
        lambda: CircuitModel.from_model(model.model),
    ):
        with lost:
            use()


def test_a_failure_that_passes_loses_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """An exception from outside, such as one that another thread sends, hits one part: it is restored again."""
    model, policy = tiny("llama"), PAHQ("int8", "attention+mlp")
    before, read, failures = values(model), FileWeightStore.read, iter([True])

    def fails_once(*arguments: object) -> torch.Tensor:
        if next(failures, False):
            raise SystemExit(3)
        return read(*arguments)  # type: ignore[arg-type]

    policy.prepare(model)
    monkeypatch.setattr(FileWeightStore, "read", fails_once)
    with pytest.raises(SystemExit):
        policy.close()
    assert equal(values(model), before)
    assert model.answer_logits(random_batch()).isfinite().all()


def test_a_failure_between_allocating_and_copying_leaves_no_undefined_values(monkeypatch: pytest.MonkeyPatch) -> None:
    model, policy, copy = tiny("llama"), PAHQ("int8", "attention+mlp"), torch.Tensor.copy_

    def fails(target: torch.Tensor, source: torch.Tensor) -> torch.Tensor:
        if target.shape == (24, 16):  # MLPs of both layers
            raise MemoryError
        return copy(target, source)

    policy.prepare(model)
    monkeypatch.setattr(torch.Tensor, "copy_", fails)
    with pytest.raises(CircuitKitError, match=r"MLP of layer 0.*MLP of layer 1.* were lost"):
        policy.close()
    monkeypatch.undo()
    assert {value.numel() for name, value in values(model).items() if "mlp" in name} == {0}
