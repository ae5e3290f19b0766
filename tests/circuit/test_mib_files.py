"""Submissions to MIB: written, read back, and refused."""

import errno
import re
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support import reference
from support.graphs import GROUPED, TINY, circuits, eap, graphs, on_one_line, random_circuit

from circuitkit.circuit import read_mib_submission, write_mib_submission
from circuitkit.circuit.circuit import Circuit
from circuitkit.circuit.graph import EdgeGraph, same_edges
from circuitkit.circuit.mib_files import MODELS, SIZES, TASKS, read_circuits, write_circuits
from circuitkit.errors import CircuitKitError, UsageError

QWEN = EdgeGraph(24, 14, 2)
FOUR_LAYERS = EdgeGraph(4, 4, 2)


@pytest.mark.parametrize(
    ("model", "edges"), [("gpt2", 32491), ("qwen2.5", 179749), ("gemma2", 74218), ("llama3", 1592881)]
)
def test_models_have_as_many_edges_as_mib_counts(model: str, edges: int) -> None:
    """The counts are those in MIB's code."""
    assert len(replace(MODELS[model][0], kv="head")) == edges


def test_there_are_twelve_pairs_of_task_and_model() -> None:
    assert sum(map(len, TASKS.values())) == 12
    assert set().union(*TASKS.values()) == set(MODELS)


def nine(circuit: Circuit) -> list[Circuit]:
    """Select circuits at MIB's sizes."""
    return [circuit.top(int(size * len(circuit.graph))) for size in SIZES[:-1]]


@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_importances_read_back(data: st.DataObject) -> None:
    circuit = data.draw(circuits(graphs(largest=2).filter(lambda graph: graph.mlps), spread=50))
    circuit = replace(circuit, scores=circuit.scores.float())
    scores = circuit.expand_kv().scores
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "ioi_tiny"
        write_circuits(path, circuit, d_model=8)
        assert [file.name for file in path.iterdir()] == ["importances.pt"]
        if (scores == scores[0]).all():
            with pytest.raises(CircuitKitError, match="the same score"):
                read_circuits(path, circuit.graph)
            return
        [back] = read_circuits(path, circuit.graph)
    assert back.is_ranking  # of which MIB keeps nothing but the scores
    assert torch.equal(back.scores, scores)
    assert same_edges(back.graph, circuit.expand_kv().graph)
    assert torch.allclose(back.collapse_kv().scores, circuit.collapse_kv().scores)


@settings(max_examples=8, deadline=None)
@given(data=st.data())
def test_nine_circuits_read_back(data: st.DataObject) -> None:
    graph = data.draw(graphs(largest=2).filter(lambda graph: graph.mlps))
    circuits_ = nine(random_circuit(graph, data.draw(st.integers(0, 1000)), density=1).expand_kv())
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "ioi_tiny"
        write_circuits(path, circuits_, d_model=8)
        assert len(list(path.iterdir())) == 9
        back = read_circuits(path, graph)
    for found, expected in zip(back, circuits_, strict=True):
        assert torch.equal(found.kept, expected.kept)
        assert torch.equal(found.scores, expected.scores)


def test_a_group_counts_as_its_heads(tmp_path: Path) -> None:
    """Half of the edges of groups may be more than half of the edges of heads."""
    names = [name for name in FOUR_LAYERS.names if "kv" in name]
    circuit = Circuit.from_names(FOUR_LAYERS, names)
    smaller = [Circuit.from_names(FOUR_LAYERS, [])] * 8
    assert len(circuit) < len(FOUR_LAYERS) / 2
    limit = int(0.5 * len(circuit.expand_kv().graph))
    assert len(circuit.expand_kv()) > limit
    with pytest.raises(UsageError, match=f"50% of the edges keeps {len(circuit.expand_kv())}, more than {limit}"):
        write_circuits(tmp_path / "x", [*smaller, circuit], d_model=8)


def test_a_submission_is_written_and_read(tmp_path: Path) -> None:
    gpt2 = random_circuit(MODELS["gpt2"][0], density=1)
    qwen = random_circuit(QWEN, density=1)
    assert write_mib_submission(tmp_path, "ioi", "gpt2", gpt2) == tmp_path / "ioi_gpt2"
    write_mib_submission(tmp_path, "mcqa", "qwen2.5", nine(qwen.expand_kv()))
    (tmp_path / "README.md").write_text("Files beside the folders are not read.")
    found = read_mib_submission(tmp_path)
    assert sorted(found) == ["ioi_gpt2", "mcqa_qwen2.5"]
    assert torch.equal(found["ioi_gpt2"][0].scores, gpt2.scores)  # positive where an edge helps, in MIB and here
    assert [len(circuit) for circuit in found["mcqa_qwen2.5"]] == [int(size * 179749) for size in SIZES[:-1]]
    assert found["mcqa_qwen2.5"][0].collapse_kv().graph == QWEN
    assert torch.load(tmp_path / "ioi_gpt2" / "importances.pt", weights_only=True)["cfg"]["d_model"] == 768


def test_json_files_are_read_in_the_order_of_their_sizes(tmp_path: Path) -> None:
    expected = nine(random_circuit(TINY, density=1))
    for name, circuit in zip("ihgfedcba", expected, strict=True):
        circuit.to_eap_ig(tmp_path / f"{name}.json", d_model=24, scores_of="loss")
    (tmp_path / ".gitattributes").touch()
    assert [len(circuit) for circuit in read_circuits(tmp_path, TINY)] == [len(circuit) for circuit in expected]


def assert_refused(error: type[CircuitKitError], match: str, act: Callable[[], object]) -> None:
    with pytest.raises(error, match=match) as raised:
        act()
    assert on_one_line(raised.value)


def test_wrong_circuits_are_not_written(tmp_path: Path) -> None:
    gpt2 = random_circuit(MODELS["gpt2"][0], density=1)
    sizes = nine(gpt2)
    for match, task, model, given_ in [
        (r"'ioi_pythia' is not a task and a model of MIB\. Choose from ioi_gpt2, ", "ioi", "pythia", gpt2),
        ("'arc_easy_gemma2'", "arc_easy", "gemma2", gpt2),
        ("'mcqa_gpt2'", "mcqa", "gpt2", gpt2),
        ("not of MIB's gpt2", "ioi", "gpt2", eap()),
        ("not of MIB's gpt2", "ioi", "gpt2", [*sizes[:-1], eap()]),
        ("8 circuits", "ioi", "gpt2", sizes[:-1]),
        ("0 circuits", "ioi", "gpt2", []),
        (r"0\.1% of the edges keeps 33, more than 32", "ioi", "gpt2", [gpt2.top(33), *sizes[1:]]),
        ("keep 32, 31, 162", "ioi", "gpt2", [sizes[0], gpt2.top(31), *sizes[2:]]),
    ]:
        assert_refused(UsageError, match, lambda: write_mib_submission(tmp_path / "out", task, model, given_))  # noqa: B023
    assert not list(tmp_path.rglob("*"))


def test_what_is_in_a_folder_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "ioi_gpt2").mkdir()
    gpt2 = random_circuit(MODELS["gpt2"][0], density=1)
    write_mib_submission(tmp_path, "ioi", "gpt2", gpt2)  # an empty folder is used
    before = (tmp_path / "ioi_gpt2" / "importances.pt").read_bytes()
    assert_refused(UsageError, "exists", lambda: write_mib_submission(tmp_path, "ioi", "gpt2", nine(gpt2)))
    assert (tmp_path / "ioi_gpt2" / "importances.pt").read_bytes() == before
    assert [path.name for path in tmp_path.rglob("*")] == ["ioi_gpt2", "importances.pt"]
    (tmp_path / "file").touch()
    for folder, said in (("file", "written"), ("null\0", "null character")):
        assert_refused(CircuitKitError, said, lambda: write_circuits(tmp_path / folder / "x", eap(), 24))  # noqa: B023


def test_a_full_disk_leaves_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written = []

    def fill(file: int) -> None:
        written.append(file)
        if len(written) == 5:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", fill)
    assert_refused(
        CircuitKitError,
        "No space left",
        lambda: write_circuits(tmp_path / "x", nine(random_circuit(TINY, density=1)), 24),
    )
    assert len(written) == 5
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda folder: (folder / "9.txt").touch(), "9.txt is no file of EAP-IG"),
        (lambda folder: (folder / "0.5.pt").unlink(), "has 8 files"),
        (lambda folder: eap().to_eap_ig(folder / "more.json", d_model=24), "has 10 files"),
        (
            lambda folder: eap().top(75).to_eap_ig(folder / "0.5.pt", d_model=24),
            "50% of the edges keeps 75, more than 37",
        ),
        (lambda folder: random_circuit(GROUPED).to_eap_ig(folder / "0.5.pt", d_model=24), "same model"),
        (lambda folder: (folder / "0.5.pt").write_bytes(b"no"), "damaged"),
    ],
)
def test_wrong_folders_are_refused(change: Callable[[Path], object], match: str, tmp_path: Path) -> None:
    write_circuits(tmp_path / "x", nine(random_circuit(TINY, density=1)), 24)
    read_circuits(tmp_path / "x", TINY)
    change(tmp_path / "x")
    assert_refused(CircuitKitError, match, lambda: read_circuits(tmp_path / "x", TINY))


def test_wrong_submissions_are_refused(tmp_path: Path) -> None:
    assert_refused(UsageError, "no folder", lambda: read_mib_submission(tmp_path / "none"))
    assert_refused(UsageError, "no folders in", lambda: read_mib_submission(tmp_path))
    (tmp_path / "file").touch()
    assert_refused(CircuitKitError, "cannot be read", lambda: read_mib_submission(tmp_path / "file"))
    assert_refused(CircuitKitError, "null character", lambda: read_mib_submission("null\0"))
    (tmp_path / "ioi_gpt2").mkdir()
    assert_refused(CircuitKitError, "has 0 files", lambda: read_mib_submission(tmp_path))
    (tmp_path / "ioi_gpt2" / "importances.json").write_bytes((reference.EAP_IG / "eap_top20.json").read_bytes())
    assert_refused(UsageError, "same model", lambda: read_mib_submission(tmp_path))
    (tmp_path / "ioi").mkdir()
    assert_refused(UsageError, "'ioi' is not a task and a model", lambda: read_mib_submission(tmp_path))


def test_the_page_on_exchange_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = (Path(__file__).parents[2] / "docs" / "eap_ig_and_mib.md").read_text(encoding="utf-8")
    one_file, submission, nine_circuits = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    monkeypatch.chdir(tmp_path)
    gpt2 = random_circuit(MODELS["gpt2"][0], density=1)
    gpt2.to_eap_ig("importances.json", d_model=768, scores_of="loss")
    names = {"Circuit": Circuit, "ranking": random_circuit(QWEN, density=1)}
    exec(one_file + nine_circuits, names)
    names["ranking"] = gpt2
    exec(submission, names)
    assert torch.equal(names["circuit"].scores, gpt2.scores)
    assert torch.equal(names["found"]["ioi_gpt2"][0].scores, gpt2.scores)
    assert torch.equal(names["found"]["mcqa_qwen2.5"][8].kept, names["circuits"][8].kept)
