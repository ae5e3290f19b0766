"""Intervals of scores and agreement of halves, against plain loops and `scipy.stats.bootstrap`; their files."""

import io
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats
from support.prepared import prepare
from support.scripted import Case, Scripted
from support.tiny import random_batch, tiny

import circuitkit
from circuitkit.engine.attribution.edge_scores import attribute_prompts
from circuitkit.engine.processes import Processes
from circuitkit.errors import CircuitKitError, UsageError
from circuitkit.evaluation import score_intervals
from circuitkit.evaluation.intervals import mean_figures
from circuitkit.evaluation.score_intervals import ScoreIntervals, compute_half_agreement, compute_score_intervals
from circuitkit.run.discoverer import Discoverer
from circuitkit.run.result import Result
from circuitkit.strategies.discovery import Discovery


def draw_scores(prompts: int, edges: int = 40, seed: int = 0) -> torch.Tensor:
    """Scores of very different sizes, some of them certain."""
    generator = torch.Generator().manual_seed(seed)
    scale = torch.logspace(-6, 1, edges, dtype=torch.float64)
    shift = torch.randn(edges, generator=generator, dtype=torch.float64)
    return scale * (shift + torch.randn(prompts, edges, generator=generator, dtype=torch.float64))


def test_resampled_means_are_those_of_plain_loops(monkeypatch: pytest.MonkeyPatch) -> None:
    """The k-th smallest and largest mean of resamples, drawn and averaged one by one; edges in several parts."""
    monkeypatch.setattr(score_intervals, "RESAMPLES", 99)
    monkeypatch.setattr(score_intervals, "_AT_ONCE", 7)
    scores, count = draw_scores(12), 12
    low, high = compute_score_intervals(scores, scores.mean(0), seed=3)
    drawn = np.random.default_rng(3).multinomial(count, [1 / count] * count, size=99)
    width = (count / (count - 1)) ** 0.5 * stats.t.ppf(0.975, count - 1)
    k = max(round(stats.norm.sf(width) * 100), 1) - 1
    for edge, of_prompts in enumerate(scores.T.numpy()):
        means = sorted(
            sum(times * score for times, score in zip(one, of_prompts, strict=True)) / count for one in drawn
        )
        size = abs(of_prompts).max()
        assert low[edge] == pytest.approx(means[k], abs=1e-6 * size)
        assert high[edge] == pytest.approx(means[98 - k], abs=1e-6 * size)


@pytest.mark.parametrize("prompts", [5, 16, 60])
def test_intervals_are_those_of_other_figures_but_for_fewer_resamples(prompts: int) -> None:
    scores = draw_scores(prompts, edges=30)
    low, high = compute_score_intervals(scores.bfloat16(), scores.mean(0))
    expected = mean_figures(scores.T.numpy())
    width = expected.high - expected.low
    assert (np.abs(low - expected.low) / width).max() < 0.2  # 5 prompts: the ends are the farthest of 1999 resamples
    assert (np.abs(low - expected.low) / width).mean() < 0.05
    assert (np.abs(high - expected.high) / width).mean() < 0.05


def test_intervals_contain_the_true_score_as_often_as_they_say() -> None:
    scores = torch.randn(16, 2000, generator=torch.Generator().manual_seed(1), dtype=torch.float64) + 3
    low, high = compute_score_intervals(scores, scores.mean(0))
    assert ((low <= 3) & (high >= 3)).mean() == pytest.approx(0.95, abs=0.02)


def test_intervals_of_equal_scores_are_as_wide_as_rounding_makes_them() -> None:
    mean = torch.tensor([1 / 3, 0.0, -1e-9], dtype=torch.float64)
    low, high = compute_score_intervals(mean.expand(6, 3).bfloat16(), mean)
    rounding = mean.bfloat16().abs().double().numpy() / 256  # of 8 bits, up to half a step to either side
    assert high - mean.numpy() == pytest.approx(rounding, rel=1e-6)
    assert mean.numpy() - low == pytest.approx(rounding, rel=1e-6)
    exact = compute_score_intervals(torch.ones(6, 3, dtype=torch.float32), torch.ones(3, dtype=torch.float64))
    assert abs(exact[1] - exact[0]).max() < 1e-6
    certain = ScoreIntervals(["a", "b", "c"], mean.numpy(), low, high).sign_certain
    assert certain.tolist() == [True, False, True]


def test_fewer_than_five_prompts_have_no_intervals() -> None:
    with pytest.raises(UsageError, match="Scores of 4 prompts have no intervals"):
        compute_score_intervals(draw_scores(4), draw_scores(4).mean(0))


@pytest.mark.parametrize("prompts", [2, 7, 12])
def test_agreement_of_halves_is_that_of_plain_loops(prompts: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(score_intervals, "_AT_ONCE", 33)
    scores, draw = draw_scores(prompts, edges=200), np.random.default_rng(5)
    correlations, indices = [], []
    for _ in range(score_intervals.HALVES):
        order = list(draw.permutation(prompts))
        halves = [order[: prompts // 2], order[prompts // 2 : 2 * (prompts // 2)]]
        means = [np.abs([sum(float(scores[p, e]) for p in half) for e in range(200)]) for half in halves]
        correlations.append(stats.spearmanr(*means).statistic)
        one, other = ({int(edge) for edge in np.argsort(-mean)[:2]} for mean in means)
        indices.append(len(one & other) / len(one | other))
    found = compute_half_agreement(scores, seed=5)
    assert found == pytest.approx((np.mean(correlations), np.mean(indices)), abs=1e-6)


def test_halves_that_are_equal_agree_and_tied_edges_have_no_order() -> None:
    assert compute_half_agreement(draw_scores(1).expand(6, -1)) == pytest.approx((1, 1))
    assert np.isnan(compute_half_agreement(torch.zeros(6, 10, dtype=torch.float64))[0])


def find(strategy: Any = "eap", **more: Any) -> Result:
    options: dict[str, Any] = {"sizes": (), **more}
    return Discoverer("cpu", callbacks=[], seed=2).run("toy", "ioi", strategy, **{"examples": 8, **options})


@pytest.mark.parametrize("strategy", ["eap", {"class_path": "eap_ig", "init_args": {"steps": 2}}, "gim", "relp"])
def test_a_run_has_intervals_of_its_scores_in_memory_and_in_its_folder(strategy: Any, tmp_path: Path) -> None:
    result = find(strategy, out=tmp_path / "run")
    intervals = result.score_intervals
    assert intervals is not None
    assert np.array_equal(intervals.score, result.circuit.scores.double().numpy())
    assert ((intervals.low <= intervals.score) & (intervals.score <= intervals.high)).all()
    assert result.metrics["sign_certain"] == intervals.sign_certain.sum() > 10
    table = pd.read_parquet(tmp_path / "run" / "score_intervals.parquet")
    assert table.columns.tolist() == ["edge", "score", "low", "high", "sign_certain"]
    assert table["edge"].tolist() == result.circuit.graph.names
    loaded = Result.load(tmp_path / "run").score_intervals
    assert loaded is not None
    pd.testing.assert_frame_equal(loaded.to_pandas(), table)
    pd.testing.assert_frame_equal(intervals.to_pandas(), table)
    assert f"Scores: {intervals.sign_certain.sum()} of 262 have a certain sign" in str(result)
    assert 0 < result.metrics["halves_jaccard"] <= 1
    assert -1 <= result.metrics["halves_spearman"] <= 1


def test_intervals_are_of_the_run_s_own_prompts() -> None:
    model, batch = tiny("llama"), random_batch(lengths=(5, 7, 6, 6, 8, 5))
    result = Discoverer("cpu", callbacks=[], seed=4).run(model, batch, "eap", sizes=())
    scores = attribute_prompts(prepare(model, batch)).bfloat16()
    low, high = compute_score_intervals(scores, result.circuit.scores, seed=4)
    assert result.score_intervals is not None
    assert np.allclose(result.score_intervals.low, low, rtol=0, atol=1e-12)
    assert np.allclose(result.score_intervals.high, high, rtol=0, atol=1e-12)


def test_without_memory_for_them_there_are_only_scores(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = find()
    monkeypatch.setattr("circuitkit.engine.memory.Need.fits", lambda need, prompts, available: not need.held)
    bare = find()
    assert whole.score_intervals is not None
    assert bare.score_intervals is None
    assert torch.equal(bare.circuit.scores, whole.circuit.scores)


class Several(Processes):
    """Says that there are so many processes."""

    def __init__(self, count: int) -> None:
        self.count = count


@pytest.mark.parametrize(("processes", "rows"), [(1, 4), (2, 2 + 4), (3, 2 + 4)])
def test_all_scores_that_a_process_holds_must_fit_into_its_budget(
    processes: int, rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its own, and with several processes those of all prompts."""
    found: list[bool] = []

    def act(run: Discovery) -> None:
        budget, each = 10**9, 2 * len(run.model.graph)
        one = replace(run, processes=Several(processes), memory_budget=budget)
        for held in (rows - 1, rows):
            monkeypatch.setattr("circuitkit.strategies.discovery._FOR_SCORES", (held + 0.5) * each / budget)
            found.append(bool(one.ranking_need().held))

    Case().run(Scripted(act), sizes=())
    assert found == [False, True]


def test_batches_that_fit_into_memory_give_the_same_intervals() -> None:
    one, split = (
        find(),
        Discoverer("cpu", callbacks=[], seed=2, memory_budget="3MB").run("toy", "ioi", "eap", examples=8),
    )
    assert one.score_intervals is not None
    assert split.score_intervals is not None
    rounding = 0.01 * np.abs(one.score_intervals.score).max()  # 16 bits hold other bits
    assert np.allclose(split.score_intervals.low, one.score_intervals.low, rtol=1e-3, atol=rounding)


@pytest.mark.parametrize(("strategy", "examples"), [("eap", 4), ("hisp", 8), ("random_edges", 8)])
def test_other_runs_have_none(strategy: str, examples: int, tmp_path: Path) -> None:
    result = find(strategy, examples=examples, out=tmp_path / "run")
    assert result.score_intervals is None
    assert not (tmp_path / "run" / "score_intervals.parquet").exists()
    assert Result.load(tmp_path / "run").score_intervals is None
    assert "certain sign" not in str(result)


def test_the_smallest_circuit_of_a_ranking_has_them_also_where_the_search_was_finished_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = find(faithfulness=0.5)
    assert whole.score_intervals is not None

    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("circuitkit.run.smallest._try_sizes", stop)
        with pytest.raises(KeyboardInterrupt):
            find(faithfulness=0.5, out=tmp_path / "run")
    with monkeypatch.context() as patch:
        patch.setattr("circuitkit.strategies.discovery.attribute_prompts", stop)  # it is not done again
        resumed = find(faithfulness=0.5, out=tmp_path / "run", resume=True)
    assert resumed.score_intervals is not None
    pd.testing.assert_frame_equal(resumed.score_intervals.to_pandas(), whole.score_intervals.to_pandas())
    assert resumed.metrics["halves_spearman"] == whole.metrics["halves_spearman"]


def rewrite(change: Callable[[pd.DataFrame], pd.DataFrame]) -> Callable[[Path], None]:
    def apply(path: Path) -> None:
        file = io.BytesIO()
        change(pd.read_parquet(path)).to_parquet(file, index=False)
        path.write_bytes(file.getvalue())

    return apply


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda path: path.write_bytes(b"PAR1"), "it is no Parquet file of scores"),
        (rewrite(lambda table: table.drop(columns="low")), "it is no Parquet file of scores"),
        (rewrite(lambda table: table.assign(high="much")), "it is no Parquet file of scores"),
        (rewrite(lambda table: table.iloc[1:]), "it has the scores of other edges than the circuit"),
    ],
)
def test_a_damaged_file_is_one_clear_error(damage: Callable[[Path], None], said: str, tmp_path: Path) -> None:
    find(out=tmp_path / "run", splits=())
    damage(tmp_path / "run" / "score_intervals.parquet")
    with pytest.raises(CircuitKitError, match=rf"score_intervals\.parquet is damaged: {said}"):
        Result.load(tmp_path / "run")


def test_a_folder_is_replaced_with_its_intervals(tmp_path: Path) -> None:
    find(out=tmp_path / "run")
    Discoverer("cpu", callbacks=[]).run(
        "toy", "ioi", "hisp", examples=8, sizes=(), out=tmp_path / "run", overwrite=True
    )
    assert not (tmp_path / "run" / "score_intervals.parquet").exists()
    shutil.copytree(tmp_path / "run", tmp_path / "copy")
    assert isinstance(circuitkit.Result.load(tmp_path / "copy"), Result)
