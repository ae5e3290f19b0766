"""What is refused or left out without the packages of the extra `report`, and the files around the package."""

import sys
from pathlib import Path

import pytest
import torch
import yaml

from circuitkit.circuit.circuit import Circuit
from circuitkit.circuit.graph import EdgeGraph
from circuitkit.cli.main import main
from circuitkit.comparison.comparison import Comparison
from circuitkit.errors import MissingPackageError
from circuitkit.page.page import write_report
from circuitkit.report.result_view import result_html

ROOT = Path(__file__).parents[1]
REMEDY = 'pip install "pahq-circuitkit[report]"'


@pytest.fixture(params=["matplotlib", "pydot"])
def missing(request, monkeypatch):
    monkeypatch.setitem(sys.modules, request.param, None)
    return request.param


@pytest.fixture
def without(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)


def make_circuit() -> Circuit:
    graph = EdgeGraph(1, 2, 2)
    return Circuit.from_scores(graph, torch.arange(len(graph), dtype=torch.float64)).top(3)


def test_dot_needs_both(tmp_path, missing):
    with pytest.raises(MissingPackageError, match=f"^{missing} is not installed") as error:
        make_circuit().draw(tmp_path / "circuit.dot")
    assert REMEDY in str(error.value)
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize("ending", ["svg", "png"])
def test_pictures_need_matplotlib(tmp_path, without, ending):
    with pytest.raises(MissingPackageError, match=r"^matplotlib is not installed"):
        make_circuit().draw(tmp_path / f"circuit.{ending}")
    assert not [*tmp_path.iterdir()]


def test_the_interactive_page_of_a_circuit_needs_neither(tmp_path, without, monkeypatch):
    monkeypatch.setitem(sys.modules, "pydot", None)
    make_circuit().draw(tmp_path / "circuit.html")
    assert (tmp_path / "circuit.html").stat().st_size > 1000


def test_notebooks_show_everything_else(without):
    circuit = make_circuit()
    pictures = [circuit._repr_html_(), result_html([circuit], {}, "eap", "the summary")]
    pictures.append(Comparison("somewhere", [{"error": ""}])._picture_html())
    for html in pictures:
        assert "<img" not in html
        assert REMEDY in html.replace("&quot;", '"')
    assert repr(circuit) in pictures[0]
    assert "the summary" in pictures[1]
    assert "No picture" not in Comparison("somewhere", [{"error": "it failed"}])._picture_html()


def test_a_page_is_refused_before_anything_is_read(tmp_path, without):
    with pytest.raises(MissingPackageError, match="matplotlib"):
        write_report(tmp_path / "nothing is here")


@pytest.mark.parametrize("command", ["discover --model toy --task ioi --strategy eap", "compare"])
def test_a_command_that_would_make_a_page_is_refused_at_once(command, tmp_path, monkeypatch, without, capsys):
    monkeypatch.chdir(tmp_path)
    assert main([*command.split(), "--report"]) == 1
    assert REMEDY in capsys.readouterr().err
    assert not [*tmp_path.iterdir()]


def test_versions_in_the_files_around_the_package():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    project = (ROOT / "pyproject.toml").read_text()
    assert f'\nversion = "{citation["version"]}"\n' in project
    assert f'\nlicense = "{citation["license"]}"\n' in project
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())
    assert [step["run"] for step in workflow["jobs"]["ci"]["steps"] if "run" in step] == ["bash .ci/run"]


def test_the_docker_context_has_what_the_build_needs():
    ignored = (ROOT / ".dockerignore").read_text().split()
    assert ignored[0] == "*"
    kept = {line[1:] for line in ignored if line.startswith("!")}
    assert kept >= {"circuitkit", "pyproject.toml", "README.md", "LICENSE", "constraints.txt"}
    assert all((ROOT / name).exists() for name in kept)
