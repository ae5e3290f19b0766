"""Full-precision weights come back from the store bit for bit."""

import os

import pytest
import torch
from support.tiny import tiny

from circuitkit.contracts.weights import all_weights, are_equal, prepare_policy
from circuitkit.errors import CircuitKitError
from circuitkit.precision.pahq import PAHQ
from circuitkit.precision.units import Unit, unit_of
from circuitkit.precision.weight_store import FileWeightStore, PinnedWeightStore

CPU = torch.device("cpu")
cuda = [
    pytest.mark.cuda,
    pytest.mark.skipif(
        not torch.cuda.is_available(), reason="copies to a CUDA device on a stream of its own; there is no such device"
    ),
]
both = pytest.mark.parametrize("kind", ["file", pytest.param("pinned", marks=cuda)])


def make(kind):
    return FileWeightStore(CPU, 1 << 20) if kind == "file" else PinnedWeightStore(torch.device("cuda"))


def bits(tensor):
    return tensor.cpu().contiguous().view(torch.uint8)


@both
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_every_bit_comes_back(kind, dtype):
    torch.manual_seed(0)
    kept = {("attention", 0): torch.randn(3, 7), ("mlp", 0): torch.randn(1, 50), ("attention", 1): torch.randn(2, 5)}
    kept = {key: rows.to(dtype) for key, rows in kept.items()}
    kept["attention", 0][0, :3] = torch.tensor([-0.0, float("inf"), float("nan")])
    store = make(kind)
    for key, rows in kept.items():
        store.write(key, rows)
    assert store.nbytes == sum(rows.nbytes for rows in kept.values())
    store.prefetch({Unit("attention", 0, 1), Unit("mlp", 0)})
    for key, rows in kept.items():
        assert store.read(key).dtype == dtype
        assert torch.equal(bits(store.read(key)), bits(rows))
        for group in range(len(rows)):
            assert torch.equal(bits(store.read(key, group, group + 1)), bits(rows[group : group + 1]))
    store.prefetch(set())
    assert torch.equal(bits(store.read(("attention", 0), 1, 2)), bits(kept["attention", 0][1:2]))
    store.close()


def test_rows_need_not_be_contiguous():
    store, rows = make("file"), torch.randn(4, 6).T
    store.write(("attention", 0), rows)
    assert torch.equal(store.read(("attention", 0)), rows)
    store.close()


def test_the_file_has_no_name(tmp_path, monkeypatch):
    """So nothing is left however the process ends."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    store = make("file")
    store.write(("mlp", 0), torch.ones(1, 1000))
    assert not list(tmp_path.iterdir())
    store.close()


def test_short_reads_are_continued(monkeypatch):
    store, rows, read = make("file"), torch.randn(2, 1000), os.preadv
    store.write(("mlp", 0), rows)
    monkeypatch.setattr("os.preadv", lambda file, buffers, offset: read(file, [buffers[0][:100]], offset))
    assert torch.equal(store.read(("mlp", 0)), rows)
    monkeypatch.setattr("os.preadv", lambda file, buffers, offset: 0)
    with pytest.raises(CircuitKitError, match=r"end 8000 bytes early"):
        store.read(("mlp", 0))
    store.close()


def test_no_temporary_folder(tmp_path, monkeypatch):
    missing = tmp_path / "missing"
    monkeypatch.setattr("tempfile.tempdir", str(missing))
    with pytest.raises(CircuitKitError, match=rf"take 1.0 MiB in {missing}, which cannot be written.*TMPDIR"):
        make("file")


def test_memory_that_cannot_be_pinned_is_one_line(monkeypatch):
    def fail(*_):
        raise RuntimeError("CUDA error: out of memory\nCompile with ...")

    monkeypatch.setattr(PinnedWeightStore, "_pin", fail)
    with pytest.raises(CircuitKitError, match=r"^4\.0 MiB.*cannot be pinned.*CUDA error: out of memory\. .*ulimit -l"):
        make("pinned").write(("mlp", 0), torch.ones(1, 1 << 20))


class CopiesOnTheCPU(PinnedWeightStore):
    """Counts copies that are started, and those that are read; everything else is as on a CUDA device."""

    def __init__(self):
        super().__init__(CPU)
        self.started, self.used, self.direct = 0, 0, 0

    def _pin(self, rows):
        return rows.clone()

    def _start_copy(self, source):
        self.started += 1

        def wait():
            self.used += 1
            return source.clone()

        return wait

    def read(self, key, start=0, stop=None):
        before = self.used
        rows = super().read(key, start, stop)
        self.direct += self.used == before
        return rows


@pytest.mark.parametrize(
    ("unit", "arguments", "hits"),
    [
        (Unit("mlp", 1), (("mlp", 1),), True),
        (Unit("mlp", 1), (("mlp", 1), 0, 1), True),
        (Unit("mlp", 1), (("mlp", 0),), False),
        (Unit("attention", 1, 1), (("attention", 1), 1, 2), True),
        (Unit("attention", 1, 1), (("attention", 1), 0, 1), False),
        (Unit("attention", 1, 1), (("attention", 1),), False),  # all rows: more than the unit
        (Unit("attention", 0, 0), (("attention", 0),), True),  # one row is all of them
    ],
)
def test_prefetched_units_are_used(unit, arguments, hits):
    rows = {("mlp", layer): torch.randn(1, 6) for layer in (0, 1)}
    rows |= {("attention", 0): torch.randn(1, 4), ("attention", 1): torch.randn(3, 4)}
    store = CopiesOnTheCPU()
    for key, one in rows.items():
        store.write(key, one)
    store.prefetch({unit})
    key, *where = arguments
    assert torch.equal(store.read(*arguments), rows[key][slice(*where)] if where else rows[key])
    assert (store.started, store.used) == (1, int(hits))
    store.prefetch({unit})
    assert store.started == 1  # it is there already
    store.prefetch(set())
    store.read(*arguments)
    assert store.used == int(hits)


@pytest.mark.parametrize("scope", ["attention", "attention+mlp"])
@pytest.mark.parametrize("variant", ["gpt2", "llama"])
def test_a_search_reads_each_unit_from_its_prefetched_copy(variant, scope, monkeypatch):
    """From the logits backwards; each unit is copied once, while the one before it is tested."""
    store, model = CopiesOnTheCPU(), tiny(variant)
    graph, policy = model.graph, PAHQ("int8", scope)
    full = all_weights(model)
    monkeypatch.setattr("circuitkit.precision.mixed_weights.make_weight_store", lambda *_: store)
    with prepare_policy(policy, model):
        units = dict.fromkeys(unit_of(graph, reader) for reader in reversed(range(graph.n_readers)))
        tested = [unit for unit in units if unit is not None and (unit.kind == "attention" or "mlp" in scope)]
        for unit in tested:
            reader = next(reader for reader in range(graph.n_readers) if unit_of(graph, reader) == unit)
            for _ in range(2):
                with policy.investigate([reader]):
                    if unit.kind == "mlp":
                        model.weights.mlp(unit.layer)
                    else:
                        assert model.weights.attention(unit.layer).q is not None
        assert (store.used, store.direct) == (2 * len(tested), 0)
        assert store.started == len(tested)
    assert are_equal(all_weights(model), full)


@pytest.mark.cuda
@pytest.mark.skipif(
    not torch.cuda.is_available(), reason="copies to a CUDA device on a stream of its own; there is no such device"
)
def test_prefetched_rows_have_arrived_when_they_are_read():
    """Large enough that a copy that nobody waits for would be seen half done."""
    store = make("pinned")
    rows = [torch.full((1, 1 << 24), float(layer)) for layer in range(4)]
    for layer, one in enumerate(rows):
        store.write(("mlp", layer), one)
    for _ in range(3):
        for layer in reversed(range(4)):
            store.prefetch({Unit("mlp", layer), Unit("mlp", (layer - 1) % 4)})
            read = store.read(("mlp", layer))
            assert float(read.sum(dtype=torch.float64)) == layer * (1 << 24)
            del read
    store.close()
