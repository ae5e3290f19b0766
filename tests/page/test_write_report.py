"""The files of a page: complete, self-contained, with every text escaped, for every state of a folder."""

import re
from pathlib import Path

import pytest
from support.comparisons import make_large
from support.page_reader import read_page

from circuitkit.cli.main import main
from circuitkit.comparison.comparison_folder import ComparisonFolder
from circuitkit.errors import CircuitKitError, UsageError
from circuitkit.page.blocks import GZIP, JSON, make_block
from circuitkit.page.content import Content
from circuitkit.page.page import write_report
from circuitkit.run.result import Result
from circuitkit.run.run_folder import RunFolder

EVIL = "<script>alert(1)</script><img src=x onerror=alert(2)>\"' [b]=1+1[/b] | `x` {{ 1234*4321 }} </textarea>"


def test_the_page_of_a_comparison(copied: Path) -> None:
    files = write_report(copied)
    assert files[:2] == [copied / "report.html", copied / "report.md"]
    assert all(file.exists() for file in files)
    page = read_page(copied)
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert {"leaderboard", "circuits", "provenance", "main"} <= set(ids)
    links = [attributes["href"] for tag, attributes in page.elements if tag == "a"]
    assert {link.removeprefix("#") for link in links if link} <= set(ids)
    for cell in Content.load(copied).cells:
        assert cell.reproduce in page.text
        assert cell.folder in page.text
    assert "Content-Security-Policy" in str(page.elements)
    assert page.text.count("chosen on these prompts: confirm it on others") == 1
    table = page.text.partition("Faithfulness and cost of each method, the best first")[2]
    assert "Rank" in table


def test_nothing_is_loaded_from_anywhere(copied: Path) -> None:
    write_report(copied)
    for tag, attributes in read_page(copied).elements:
        assert tag not in ("link", "iframe", "object", "embed", "base")
        assert "src" not in attributes
        assert all(not name.startswith("on") for name in attributes)
        assert (attributes.get("href") or "#").startswith("#")


@pytest.mark.parametrize("field", ["model", "task", "strategy", "precision", "objective", "operating_point", "notes"])
def test_every_text_of_the_rows_is_escaped(copied: Path, field: str) -> None:
    write_report(copied)
    plain = read_page(copied).elements
    frame = Content.load(copied).frame
    frame[field] = EVIL if field != "notes" else EVIL.replace(" | ", " ")
    frame.to_parquet(copied / "results.parquet", index=False)
    write_report(copied)
    page = read_page(copied)
    assert "alert(1)" in page.text
    known = {tag for tag, _ in plain} | {"dl", "dt", "dd", "h3", "p"}
    assert {tag for tag, _ in page.elements} <= known
    assert not any("onerror" in attributes for _, attributes in page.elements)
    assert "5332114" not in page.text
    markdown = (copied / "report.md").read_text()
    assert "<script>" not in markdown.replace("\\<script\\>", "")


@pytest.mark.parametrize("name", ["config.yaml", "conclusions.txt", "environment.json"])
def test_every_text_of_the_files_is_escaped(copied: Path, name: str) -> None:
    write_report(copied)
    scripts = [tag for tag, _ in read_page(copied).elements].count("script")
    text = (copied / name).read_text()
    if name == "environment.json":
        text = text.replace('"cpu"', '"<script>alert(1)</script>"')
    else:
        text += "# <script>alert(1)</script> ````\n"
    (copied / name).write_text(text)
    write_report(copied)
    page = read_page(copied)
    assert "<script>alert(1)</script>" in page.text
    assert [tag for tag, _ in page.elements].count("script") == scripts


@pytest.mark.parametrize("value", [["</script><!--<script>", "\u2028"], ["</script>" * 9999]])
def test_data_cannot_end_its_element(value: list[str]) -> None:
    block = make_block("data", value)
    assert block.type in (JSON, GZIP)
    assert "<" not in block.text


def _drop(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).unlink()


def _unevaluated(folder: Path) -> None:
    result = Result.load(folder)
    Result(result.circuits, {}, result.metrics, result.config, result.environment).save(folder, overwrite=True)


def test_a_half_finished_grid(copied: Path) -> None:
    frame = Content.load(copied).frame
    frame[frame["strategy"] == "eap"].to_parquet(copied / "results.parquet", index=False)
    write_report(copied)
    assert "Cells that are not finished (4)" in read_page(copied).text


def test_a_grid_without_a_row(copied: Path) -> None:
    _drop(copied, "results.parquet", "agreement.csv", "conclusions.txt", "results.csv")
    write_report(copied)
    assert "No cell is finished yet: 6 of 6" in read_page(copied).text


def test_a_grid_with_errors_only(copied: Path) -> None:
    frame = Content.load(copied).frame.drop_duplicates("folder")
    frame = frame.assign(error="It broke <b>badly</b>.", ranking="", notes="")
    frame.to_parquet(copied / "results.parquet", index=False)
    write_report(copied)
    text = read_page(copied).text
    assert "All 6 cells failed" in text
    assert text.count("It broke <b>badly</b>.") == 6


def test_a_run_and_one_without_evaluation(copied: Path) -> None:
    folder = copied / Content.load(copied).cells[1].folder
    write_report(folder)
    text = read_page(folder).text
    assert "acdc on ioi in toy" in text
    assert "What was found" not in text
    assert "Rank" not in text
    assert "confirm it on others" in text
    assert "Rank" not in (folder / "report.md").read_text()
    assert f"circuitkit discover --config {folder}/config.yaml" in read_page(folder).text
    _unevaluated(folder)
    assert not (folder / "report.html").exists()  # it was of the earlier result
    write_report(folder)
    assert "it was not evaluated on held-out prompts." in read_page(folder).text


def test_a_run_that_is_not_finished(copied: Path) -> None:
    folder = copied / Content.load(copied).cells[1].folder
    _drop(folder, "result.json")
    write_report(folder)
    assert "There are no figures of this run: it is not finished." in read_page(folder).text


def test_a_page_is_replaced_as_a_whole(copied: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_report(copied)
    before = (copied / "report.html").read_bytes()
    write_report(copied)  # over the older one
    monkeypatch.setattr("circuitkit.page.page._render", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        write_report(copied)
    assert len((copied / "report.html").read_bytes()) == len(before)
    assert not list(copied.glob("*.tmp"))


def test_a_comparison_with_a_page_is_continued_and_replaced(copied: Path) -> None:
    write_report(copied)
    config = {"a": 1}
    with ComparisonFolder(copied).open(config, {}, "resume"):
        assert (copied / "report.html").exists()
    with ComparisonFolder(copied).open(config, {}, "overwrite"):
        assert not (copied / "report.html").exists()
        assert not (copied / "report_files").exists()


def test_a_foreign_file_beside_the_pictures_is_kept(copied: Path) -> None:
    (copied / "report_files").mkdir(exist_ok=True)
    (copied / "report_files" / "mine.txt").write_text("mine")
    with pytest.raises(UsageError, match=re.escape("report_files/mine.txt")):
        ComparisonFolder(copied)


def test_a_run_with_a_page_is_replaced(copied: Path) -> None:
    folder = copied / Content.load(copied).cells[0].folder
    write_report(folder)
    RunFolder(folder, overwrite=True)


def test_a_folder_that_cannot_be_written_is_named(copied: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CircuitKitError, match="cannot be written") as caught:
        write_report(copied, tmp_path / "file" / "inside")
    assert "--out FOLDER" in caught.value.remedy


@pytest.mark.parametrize("arguments", [[""], [".", "--out", ""]])
def test_an_empty_name_is_no_folder(
    arguments: list[str], copied: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(copied)  # which would be taken
    assert main(["report", *arguments]) == 2
    assert "has an empty name" in capsys.readouterr().err
    assert not (copied / "report.html").exists()


@pytest.mark.parametrize(
    ("split", "where"), [("train", "on held-out prompts"), ("test", "on both found-on and held-out prompts")]
)
def test_a_run_that_was_evaluated_on_one_split_only(split: str, where: str, copied: Path) -> None:
    folder = copied / Content.load(copied).cells[1].folder
    result = Result.load(folder)
    found = {split: result.evaluations[split]}
    Result(result.circuits, found, result.metrics, result.config, result.environment).save(folder, overwrite=True)
    write_report(folder)
    text = read_page(folder).text
    assert f"There are no figures of this run: it was not evaluated {where}." in text
    assert f"The run was not evaluated {where} (only on {split})" in text


@pytest.mark.parametrize("end", ["", "\n", "\n\n"])
def test_the_configuration_ends_before_its_fence(copied: Path, end: str) -> None:
    config = (copied / "config.yaml").read_text().rstrip()
    (copied / "config.yaml").write_text(config + end)
    write_report(copied)
    assert f"```yaml\n{config}\n```\n" in (copied / "report.md").read_text()


def test_the_whole_comparison_can_be_repeated(copied: Path, tmp_path: Path) -> None:
    write_report(copied)
    assert (
        "save the configuration below as FILE, then: circuitkit compare --config FILE --out NEW"
        in read_page(copied).text
    )
    config = re.search(r"```yaml\n(.*?)```", (copied / "report.md").read_text(), re.DOTALL)
    assert config
    (tmp_path / "saved.yaml").write_text(config[1])
    assert main(["compare", "--config", str(tmp_path / "saved.yaml"), "--out", str(tmp_path / "new"), "--dry_run"]) == 0


@pytest.mark.parametrize("kind", ["comparison", "run"])
def test_damaged_answers_do_not_hide_the_circuits(copied: Path, kind: str) -> None:
    name = next(iter(Content.load(copied).results))
    (copied / name / "answers.parquet").write_bytes(b"damaged")
    folder = copied / name if kind == "run" else copied
    content = Content.load(folder)
    assert content.results.keys() == Content.load(folder).results.keys()
    result = content.results[name if kind == "comparison" else "."]
    assert (len(result.circuits) > 0, len(result.answers)) == (True, 0)
    assert "The answers are not shown: " in content.notes[0]
    assert f"{name}/answers.parquet is damaged" in content.notes[0]
    write_report(folder)
    assert "circuit-data" in (folder / "report.html").read_text()


def test_the_command(copied: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(copied), "--out", str(tmp_path / "page")]) == 0
    assert str(tmp_path / "page" / "report.html") in capsys.readouterr().out
    assert not (copied / "report.html").exists()
    assert (tmp_path / "page" / "report.md").exists()


def test_a_reference_adds_the_curve_of_its_edges(copied: Path, tmp_path: Path) -> None:
    reference = copied / Content.load(copied).cells[1].folder
    assert main(["report", str(copied), "--out", str(tmp_path), "--reference", str(reference)]) == 0
    assert "edges of the reference" in read_page(tmp_path).text
    assert main(["report", str(copied), "--out", str(tmp_path), "--reference", str(tmp_path)]) in (1, 2)


def test_the_command_for_a_folder_of_something_else(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(tmp_path)]) == 2
    assert capsys.readouterr().err.count("\n") == 1


TOY = ["--model", "toy", "--task", "ioi", "--strategy", "eap", "--examples", "4"]


def test_a_discovery_makes_the_page_or_says_how(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "a run"
    assert main(["discover", *TOY, "--out", str(out)]) == 0
    assert f"circuitkit report '{out}'" in capsys.readouterr().out
    assert main(["discover", *TOY, "--out", str(out), "--resume", "--report"]) == 0
    assert (out / "report.html").exists()


def test_a_comparison_makes_the_page_or_says_how(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    options = ["--strategies", "{eap: eap}", "--examples", "4", "--sizes", "[0.5, 1.0]", "--out", str(out)]
    assert main(["compare", *options]) == 0
    assert f"circuitkit report {out}" in capsys.readouterr().out
    assert main(["compare", *options, "--resume", "--report"]) == 0
    assert (out / "report.html").exists()
    assert main(["compare", *options, "--resume"]) == 0  # the page does not stand in the way


def test_the_page_of_many_cells_is_small(compared: Path, tmp_path: Path) -> None:
    folder = make_large(compared, tmp_path / "large", groups=(3, 4))
    write_report(folder)
    assert len(read_page(folder).elements) > 1000
    assert (folder / "report.html").stat().st_size < 3_000_000
