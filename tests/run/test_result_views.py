"""What a result shows of itself: its faithfulness, a table, HTML for notebooks, a page for a browser."""

import base64
import io
import os
import re
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from PIL import Image
from support.page_reader import PageReader

import circuitkit
from circuitkit.errors import CircuitKitError, UsageError
from circuitkit.report import RESULT_COLUMNS
from circuitkit.run.result import Result

HOSTILE = "</script><script>alert(1)</script><!-- [red]'\"& =1+1"


@pytest.fixture(scope="module")
def model() -> circuitkit.CircuitModel:
    return circuitkit.CircuitModel.from_pretrained("toy")


@pytest.fixture(scope="module")
def found(model: circuitkit.CircuitModel) -> Result:
    return circuitkit.discover(model, "ioi", "acdc", strategy_args={"threshold": [0.1, 1.0]}, examples=8)


@pytest.fixture(scope="module")
def ranking(model: circuitkit.CircuitModel) -> Result:
    return circuitkit.discover(model, "ioi", "eap", examples=8)


@pytest.fixture(scope="module")
def hostile(found: Result) -> Result:
    circuits = [replace(circuit, selection=HOSTILE) for circuit in found.circuits]
    config = {**found.config, "model": HOSTILE, "strategy": {"class_path": HOSTILE}, "task": {"class_path": HOSTILE}}
    return replace(found, circuits=circuits, config=config, notes=[HOSTILE])


def test_faithfulness_is_that_of_the_first_circuit_on_held_out_prompts(found: Result) -> None:
    figure = found.evaluations["test"][0].curve("own")[0].searched.faithfulness
    assert figure is not None
    assert (float(found.faithfulness), found.faithfulness.low, found.faithfulness.high) == figure
    assert found.faithfulness > 0.5
    assert re.fullmatch(r"\d\.\d\d \[\d\.\d\d, \d\.\d\d\]", str(found.faithfulness))
    assert str(found.faithfulness) in str(found)


def test_a_ranking_has_no_faithfulness(ranking: Result, found: Result) -> None:
    with pytest.raises(UsageError, match=r"is a ranking: no edges are chosen yet.*to_pandas\(\)"):
        _ = ranking.faithfulness
    with pytest.raises(UsageError, match=r"no evaluation on held-out prompts.*circuitkit\.evaluate\("):
        _ = replace(found, evaluations={"train": found.evaluations["train"]}).faithfulness


def test_the_table_has_a_row_per_circuit_split_and_point(found: Result) -> None:
    frame = found.to_pandas()
    assert {name: str(kind) for name, kind in frame.dtypes.items()} == dict(RESULT_COLUMNS)
    expected = [
        (number, circuit.selection, split, point.ranking, point.edges_asked, point.faithfulness)
        for number, circuit in enumerate(found.circuits, 1)
        for split, evaluations in found.evaluations.items()
        for point in evaluations[number - 1].points
    ]
    columns = ["circuit", "operating_point", "split", "ranking", "edges_asked", "faithfulness"]
    assert [*frame[columns].itertuples(index=False, name=None)] == expected
    assert {*frame["split"]} == {"train", "test"}
    own = frame.query("split == 'test' and ranking == 'own'")["faithfulness"]
    assert own.iloc[0] == found.faithfulness
    empty = replace(found, evaluations={}).to_pandas()
    assert (len(empty), list(empty.columns)) == (0, list(RESULT_COLUMNS))


def test_a_notebook_shows_a_picture_the_figures_and_the_viewer(found: Result, ranking: Result) -> None:
    for result in (found, ranking, replace(found, evaluations={})):
        page = PageReader(result._repr_html_())
        assert {*page.tags} <= {"div", "img", "p", "br", "details", "summary", "pre", "iframe"}
        kind, _, data = str(page.find("img")["src"]).partition(",")
        assert kind == "data:image/png;base64"
        assert Image.open(io.BytesIO(base64.b64decode(data))).width > 500
        assert page.find("img")["alt"] == repr(result.circuit)
        assert str(result) in page.text
        frame = page.find("iframe")
        assert frame["sandbox"] == "allow-scripts"
        assert frame["title"]
        assert "circuitkitViewer.mount" in str(frame["srcdoc"])
    text = PageReader(found._repr_html_()).text
    assert f"(threshold 0.1, signed): faithfulness {found.faithfulness} on held-out prompts" in text
    assert "A score for each of 262 edges" in PageReader(ranking._repr_html_()).text


def test_texts_of_others_are_text(found: Result, hostile: Result) -> None:
    """Neither in the page nor in the viewer's own page, inside an attribute of it, is there an element more."""
    page, plain = PageReader(hostile._repr_html_()), PageReader(found._repr_html_())
    assert page.tags == plain.tags
    assert page.text.count(HOSTILE) >= 4
    inner, plain_inner = (PageReader(str(one.find("iframe")["srcdoc"])) for one in (page, plain))
    assert inner.tags == plain_inner.tags
    assert HOSTILE in inner.text


@pytest.fixture
def without_display(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("DISPLAY", "WAYLAND_DISPLAY", "BROWSER"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))


@pytest.mark.usefixtures("without_display")
def test_in_a_terminal_it_prints_and_writes_a_page(
    hostile: Result, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(subprocess, "Popen", lambda *_, **__: pytest.fail("A browser was opened."))
    hostile.show()
    printed = capsys.readouterr().out
    assert printed.startswith(f"{hostile}\nDrawn in ")
    text = Path(printed.rsplit("Drawn in ", 1)[1].strip()).read_text(encoding="utf-8")
    assert hostile._repr_html_() in text
    page = PageReader(text)
    assert page.tags[:8] == ["html", "head", "meta", "meta", "meta", "title", "style", "body"]
    assert page.text.count(repr(hostile)) == 2


@pytest.mark.usefixtures("without_display")
@pytest.mark.skipif(
    os.name != "posix", reason="the browser of this test is a shell script, which only POSIX systems run"
)
def test_where_there_is_a_display_the_browser_opens_the_page(
    found: Result, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    browser, opened = tmp_path / "browser", tmp_path / "opened"
    browser.write_text(f'#!/bin/sh\necho "$1" > {opened}.part\nmv {opened}.part {opened}\nsleep 20\n')
    browser.chmod(0o755)
    monkeypatch.setenv("BROWSER", str(browser))
    monkeypatch.setenv("DISPLAY", ":1")
    begun = time.monotonic()
    found.show()
    assert time.monotonic() - begun < 15  # it does not wait for the browser
    path = capsys.readouterr().out.rsplit("Drawn in ", 1)[1].strip()
    for _ in range(300):
        if opened.exists():
            break
        time.sleep(0.1)
    assert opened.read_text().strip() == Path(path).as_uri()


class Shell:
    """A stand-in for IPython: what it was asked to display."""

    def __init__(self, kernel: object) -> None:
        self.kernel, self.displayed = kernel, list[object]()
        self.display = SimpleNamespace(display=self.displayed.append)

    def get_ipython(self) -> "Shell":
        return self


@pytest.mark.usefixtures("without_display")
def test_in_a_notebook_it_is_displayed(
    found: Result, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    notebook, terminal = Shell(object()), Shell(None)
    monkeypatch.setitem(sys.modules, "IPython", notebook)
    found.show()
    assert notebook.displayed == [found]
    assert capsys.readouterr().out == ""
    monkeypatch.setitem(sys.modules, "IPython", terminal)
    found.show()
    assert terminal.displayed == []
    assert "Drawn in " in capsys.readouterr().out


@pytest.mark.usefixtures("without_display")
def test_a_page_that_cannot_be_written(found: Result, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "nowhere"))
    with pytest.raises(CircuitKitError, match=r"No page can be written to .*nowhere: No such file"):
        found.show()


def test_a_row_of_a_comparison_has_the_figures_of_its_results_table(found: Result) -> None:
    from circuitkit.comparison.grid import Grid
    from circuitkit.comparison.rows import rows_of

    strategies: dict[str, Any] = {"acdc": {"class_path": "acdc", "init_args": {"threshold": [0.1, 1.0]}}}
    cell = Grid({"toy": "toy"}, {"ioi": "ioi"}, strategies, examples=8).cells[0]
    frame = found.to_pandas()
    for row in rows_of(cell, "cells/x", found):
        keys = [(frame[name] == row[name]) for name in ("operating_point", "ranking", "edges_asked", "fraction")]
        for split in ("train", "test"):
            (match,) = frame[keys[0] & keys[1] & keys[2] & keys[3] & (frame["split"] == split)].to_dict("records")
            for name in ("faithfulness", "faithfulness_low", "kl_faithfulness_high"):
                measure, _, end = name.partition("faithfulness")
                assert match[name] == row[f"{measure}faithfulness_{split}{end}"]
            assert (
                match["accuracy_circuit"] == row["accuracy_circuit_train" if split == "train" else "accuracy_circuit"]
            )
        for name in ("kl", "logit_difference_low", "value", "full", "ablated", "edges", "accuracy_model_high"):
            assert match[name] == row[name]
