"""Static pictures: what they show, and that they are the same each time."""

import dataclasses
import io
import math
from pathlib import Path
from xml.etree import ElementTree

import matplotlib
import pytest
import torch
from PIL import Image, ImageColor
from support.graphs import GROUPED, TINY, eap, random_circuit

from circuitkit.circuit.circuit import Circuit
from circuitkit.circuit.drawing import picture, shown
from circuitkit.circuit.drawing.picture import render_picture
from circuitkit.circuit.drawing.shown import choose_shown, crowding
from circuitkit.circuit.graph import EdgeGraph
from circuitkit.errors import CircuitKitError, UsageError

LARGE = EdgeGraph(6, 8, 4)
HOSTILE = '<script>alert(1)</script> $x^{2$ & "quoted" [red]\n\x00 größer 电路'


def texts(svg: bytes) -> list[str]:
    root = ElementTree.fromstring(svg)
    return ["".join(element.itertext()).strip() for element in root.iter("{http://www.w3.org/2000/svg}text")]


def edges_drawn(svg: bytes) -> int:
    """Count the paths in the first collection, which is that of the edges; paths with more than one curve."""
    root = ElementTree.fromstring(svg)
    return sum(path.get("d", "").count("Q") == 2 for path in root.iter("{http://www.w3.org/2000/svg}path"))


def test_the_picture_names_the_nodes_of_the_circuit_and_no_others() -> None:
    circuit = Circuit.from_names(TINY, ["input->m0", "m0->a1.h2<k>", "a1.h2->logits"])
    found = texts(render_picture(circuit, "svg"))
    assert {"m0", "a1.h2", "k", "input", "logits", "3 of 75 edges: edges given by name"} <= set(found)
    assert not {"a0.h0", "a1.h1", "m1", "v"} & set(found)


@pytest.mark.parametrize("kept", [0, 1, 20, 200])
def test_every_kept_edge_is_drawn(kept: int) -> None:
    circuit = random_circuit(LARGE).top(kept)
    assert edges_drawn(render_picture(circuit, "svg")) == kept


@pytest.mark.parametrize("kind", ["svg", "png"])
def test_the_same_circuit_gives_the_same_bytes_whatever_the_settings(kind: str) -> None:
    circuit = random_circuit(TINY)
    first = render_picture(circuit, kind)
    with matplotlib.rc_context({"axes.facecolor": "black", "savefig.dpi": 30, "font.size": 30, "svg.fonttype": "path"}):
        before = dict(matplotlib.rcParams)
        assert render_picture(circuit, kind) == first
        assert dict(matplotlib.rcParams) == before


def test_a_png_can_be_read() -> None:
    image = Image.open(io.BytesIO(render_picture(random_circuit(GROUPED), "png")))
    assert image.format == "PNG"
    assert min(image.size) > 300


def test_a_png_has_the_colors_of_the_legend_whatever_the_edges() -> None:
    circuit = dataclasses.replace(random_circuit(LARGE), scores=torch.ones(len(LARGE)))
    image = Image.open(io.BytesIO(render_picture(circuit, "png"))).convert("RGB")
    wanted = torch.tensor([ImageColor.getrgb(picture.NEGATIVE), ImageColor.getrgb(picture.POSITIVE)])
    found = torch.tensor([color for _, color in image.getcolors(image.width * image.height)])
    assert (found[:, None] - wanted).abs().amax(-1).amin(0).max() <= 12


def test_color_is_the_sign_and_strength_the_width() -> None:
    scores = torch.zeros(75)
    names = ["input->m0", "m0->logits", "input->logits"]
    for name, score in zip(names, (4.0, -1.0, 0.0), strict=True):
        scores[TINY.parse(name)] = score
    circuit = dataclasses.replace(Circuit.from_names(TINY, names), scores=scores)
    assert [TINY.names[edge] for edge in choose_shown(circuit).edges] == names[::-1]
    assert choose_shown(circuit).strengths == [0.0, 0.5, 1.0]
    svg = render_picture(circuit, "svg").decode()
    for color, edges in ((picture.POSITIVE, 2), (picture.NEGATIVE, 1)):
        assert svg.count(f"stroke: {color}") == edges + 1  # and the legend's


@pytest.mark.parametrize(
    ("scores", "strength"),
    [([0.0] * 75, 1.0), ([math.inf] * 75, 1.0), ([2.0] * 75, 1.0), ([-2.0] * 75, 1.0)],
)
def test_equal_scores_are_equally_strong(scores: list[float], strength: float) -> None:
    circuit = dataclasses.replace(eap().top(10), scores=torch.tensor(scores))
    assert choose_shown(circuit).strengths == [strength] * 10
    render_picture(circuit, "svg")


def test_an_infinite_score_is_as_strong_as_the_largest() -> None:
    scores = torch.ones(75)
    scores[0] = -math.inf
    found = choose_shown(dataclasses.replace(eap(), scores=scores, selection="given"))
    assert set(found.strengths) == {1.0}


def test_edges_on_no_path_are_pale_and_counted() -> None:
    circuit = Circuit.from_names(TINY, ["input->m0", "m0->logits", "a0.h0->m1"])
    found = choose_shown(circuit)
    assert dict(zip(found.edges, found.connected, strict=True))[TINY.parse("a0.h0->m1")] is False
    assert sum(found.connected) == 2
    assert found.title == "3 of 75 edges: edges given by name (1 on no path from input to logits, pale)"


def test_heads_share_the_key_or_value_of_their_group() -> None:
    circuit = Circuit.from_names(GROUPED, ["m0->a1.kv0<v>", "a1.h0->logits", "m0->m1"])
    found = picture._sum_strengths(circuit, choose_shown(circuit))
    heads = GROUPED.heads // GROUPED.kv_heads
    relative = {GROUPED.writer_names[writer]: value**2 for writer, value in found.items()}
    assert relative["m0"] == 1
    assert relative["a1.h0"] == pytest.approx((1 + 1 / heads) / 2)
    assert relative["a1.h1"] == pytest.approx(1 / heads / 2)


def test_the_strongest_edges_of_a_large_circuit_are_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shown, "MOST_DRAWN", 12)
    circuit = eap().top(20)
    found = choose_shown(circuit)
    assert sorted(found.edges) == sorted(circuit.ranking()[:12].tolist())
    assert "(the 12 strongest are drawn)" in found.title


def test_of_a_ranking_the_first_edges_are_drawn() -> None:
    circuit = Circuit.from_scores(LARGE, torch.randn(len(LARGE), generator=torch.Generator().manual_seed(0)))
    found = choose_shown(circuit)
    assert len(found.edges) == 200 < len(LARGE)
    assert "the 200 strongest are drawn" in found.title


def test_crowding_grows_from_30_to_3000_edges() -> None:
    values = [crowding(edges) for edges in (0, 29, 100, 1000, 2999, 10**6)]
    assert values == sorted(values)
    assert (values[0], values[1], values[-2], values[-1]) == (0, 0, 1, 1)


@pytest.mark.parametrize("kind", ["svg", "png"])
def test_a_text_of_others_is_text(kind: str) -> None:
    circuit = dataclasses.replace(eap().top(5), selection=HOSTILE + "x" * 500)
    data = render_picture(circuit, kind)
    if kind == "svg":
        title = " ".join(text for text in texts(data) if "alert" in text or "xxx" in text)
        assert "<script>alert(1)</script> $x^{2$ &" in title
        assert not list(ElementTree.fromstring(data).iter("{http://www.w3.org/2000/svg}script"))


@pytest.mark.parametrize("ending", ["svg", "png", "html", "dot"])
def test_draw_writes_the_kind_that_the_ending_says(tmp_path: Path, ending: str) -> None:
    path = tmp_path / "new" / f"circuit.{ending.upper()}"
    random_circuit(GROUPED).draw(path)
    begin = {"svg": b"<?xml", "png": b"\x89PNG", "html": b"<!doctype html>", "dot": b"digraph"}[ending]
    assert path.read_bytes().startswith(begin)


@pytest.mark.parametrize("name", ["circuit", "circuit.pdf", "circuit.svg.gz", ".svg"])
def test_another_ending_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match=r"is not the name of a picture\. End it in one of \.svg, "):
        eap().draw(tmp_path / name)
    assert not list(tmp_path.iterdir())


def test_a_file_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CircuitKitError, match="cannot be written"):
        eap().draw(tmp_path / "file" / "circuit.dot")
