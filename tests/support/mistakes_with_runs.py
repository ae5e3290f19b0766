"""Mistakes with models, prompts, runs and comparisons in Python."""

import math
from pathlib import Path

import torch
from support.mistakes import (
    PAIRS,
    Case,
    batch,
    check,
    circuit,
    closed_folder,
    compared,
    found,
    full_disk,
    model,
    moved_behind_its_back,
    no_cache,
    offline,
    with_nan,
)
from support.tiny import random_batch, tiny, tiny_hf

import circuitkit
from circuitkit import (
    CircuitModel,
    Discoverer,
    PromptBatch,
    discover,
    evaluate,
)

RUNS = {
    # The model
    "discover: a number as model": Case(found(5), 2, ("5 does not name a model", "Give a name")),
    "discover: None as model": Case(found(None), 2, ("None does not name a model",)),
    "discover: a list as model": Case(found(["toy"]), 2, ("['toy'] does not name a model",)),
    "discover: any module": Case(found(torch.nn.Linear(2, 2)), 2, ("Linear",)),
    "discover: an empty name": Case(found(""), 2, ("has no name",)),
    "discover: a device in a spec": Case(found({"name": "toy", "device": "cpu"}), 2, ("unknown key 'device'",)),
    "discover: a folder that is not there": Case(found(Path("nowhere"), examples=4), 2, ("'nowhere'",), offline),
    "discover: NaN weights": Case(lambda: discover(with_nan(), random_batch(), "eap"), 1, ("not finite", "weights")),
    "discover: a model on meta": Case(
        lambda: discover(moved_behind_its_back(), random_batch(), "eap"), 2, ("cannot be moved", "Choose cpu")
    ),
    "evaluate: a model on meta": Case(
        lambda: evaluate(moved_behind_its_back(), circuit(), random_batch(), sizes=[0.5]), 2, ("not in memory",)
    ),
    "from_model: a name": Case(lambda: CircuitModel.from_model("gpt2"), 2, ("'gpt2'",)),
    "from_model: None": Case(lambda: CircuitModel.from_model(None), 2, ("None",)),
    "from_model: NaN weights": Case(lambda: CircuitModel.from_model(with_nan()), 1, ("not finite",)),
    "from_model: on meta": Case(lambda: CircuitModel.from_model(tiny_hf("gpt2").to("meta")), 2, ("not in memory",)),
    "from_model: a tokenizer's name": Case(
        lambda: CircuitModel.from_model(tiny_hf("gpt2"), "gpt2"), 2, ("'gpt2' is no tokenizer", "AutoTokenizer")
    ),
    "from_model: kv": Case(lambda: CircuitModel.from_model(tiny_hf("gpt2"), kv="x"), 2, ("kv='x'", "Choose")),
    "from_model: positions": Case(
        lambda: CircuitModel.from_model(tiny_hf("gpt2"), positions="x"), 2, ("positions='x'", "Choose 'constant'")
    ),
    "from_pretrained: None": Case(lambda: CircuitModel.from_pretrained(None), 2, ("'None'", "list models"), offline),
    "from_pretrained: no dtype": Case(
        lambda: CircuitModel.from_pretrained("toy", dtype="float31"), 2, ("'float31'", "Choose float32")
    ),
    "from_pretrained: a dtype of integers": Case(
        lambda: CircuitModel.from_pretrained("toy", dtype="int8"), 2, ("'int8'", "Choose float32")
    ),
    "from_pretrained: not fetched": Case(
        lambda: CircuitModel.from_pretrained("smollm2-135m"), 2, ("'smollm2-135m'", "circuitkit fetch"), no_cache
    ),
    "from_pretrained: a file": Case(lambda: CircuitModel.from_pretrained("plain.txt"), 2, ("'plain.txt'",), offline),
    "from_pretrained: an empty folder": Case(lambda: CircuitModel.from_pretrained("empty"), 2, ("'empty'",), offline),
    "from_pretrained: a URL": Case(
        lambda: CircuitModel.from_pretrained("https://example.invalid/x"), 2, ("'https://example.invalid/x'",), offline
    ),
    "from_pretrained: an unreachable hub": Case(
        lambda: CircuitModel.from_pretrained("no-such-owner/no-such"), 2, ("connect", "hf download"), offline
    ),
    "to: no device": Case(lambda: tiny("gpt2").to("gpu"), 2, ("'gpu'", "Choose cpu")),
    "to: meta": Case(lambda: tiny("gpt2").to("meta"), 2, ("not in memory",)),
    # Parts of a run
    "discover: a number as task": Case(found("toy", 5), 2, ("The task is 5", "instance of Task")),
    "discover: None as task": Case(found("toy", None), 2, ("The task is None",)),
    "discover: a list as task": Case(found("toy", [{"clean": "a"}]), 2, ("The task is [{'clean': 'a'}]",)),
    "discover: an empty task": Case(found("toy", ""), 2, ("There is no task ''", "Known:")),
    "discover: an empty mapping": Case(found("toy", {}), 2, ("{} does not name one of the tasks", "class_path")),
    "discover: model and task swapped": Case(found("ioi", "toy"), 2, ("There is no task 'toy'",)),
    "discover: a number as strategy": Case(found("toy", "ioi", 5), 2, ("The strategy is 5", "DiscoveryStrategy")),
    "discover: None as strategy": Case(found("toy", "ioi", None), 2, ("The strategy is None",)),
    "discover: a function": Case(found("toy", "ioi", print), 2, ("<built-in function print>",)),
    "discover: the class itself": Case(
        found("toy", "ioi", circuitkit.strategies.EAP), 2, ("the class EAP", "an instance of DiscoveryStrategy")
    ),
    "discover: a task as strategy": Case(found("toy", "ioi", circuitkit.tasks.IOI()), 2, ("The strategy is",)),
    "discover: a class path to a function": Case(found("toy", "ioi", "os.system"), 2, ("os.system",)),
    "discover: a class path to a module": Case(found("toy", "ioi", "os.path"), 2, ("os.path",)),
    "discover: a class path to nothing": Case(found("toy", "ioi", "no.such.Class"), 2, ("No module named 'no'",)),
    "discover: a class path to a task": Case(
        found("toy", "ioi", "circuitkit.tasks.ioi.IOI"), 2, ("IOI", "circuitkit list")
    ),
    "discover: a class path of dots": Case(found("toy", "ioi", "..."), 2, ("'...'",)),
    "discover: a path of a Python file": Case(found("toy", "ioi", "./own.py"), 2, ("own.py",)),
    "discover: precision": Case(found(precision="int8"), 2, ("There is no precision policy 'int8'", "Known:")),
    "discover: precision that is a number": Case(found(precision=8), 2, ("The precision is 8",)),
    "discover: objective": Case(found(objective="accuracy"), 2, ("There is no objective 'accuracy'", "Known:")),
    "discover: a function as objective": Case(found(objective=len), 2, ("The objective is <built-in function len>",)),
    "discover: ablation": Case(found(ablation="patch"), 2, ("There is no ablation 'patch'", "Known: mean")),
    "discover: a number as ablation": Case(found(ablation=0.0), 2, ("The ablation is 0.0",)),
    "discover: examples as text": Case(found(examples="4"), 2, ("examples='4'", "such as 64")),
    "discover: two numbers of examples": Case(found(examples=[1, 2]), 2, ("examples=[1, 2]", "three")),
    "discover: no examples": Case(found(examples=0), 2, ("examples=0",)),
    "discover: sizes as text": Case(found(sizes="0.1"), 2, ("'0.1'",)),
    "discover: a size above 1": Case(found(sizes=[2.0]), 2, ("2.0",)),
    "discover: falling sizes": Case(found(sizes=[0.5, 0.1]), 2, ("0.5", "0.1")),
    "discover: a size that is NaN": Case(found(sizes=[math.nan]), 2, ("nan",)),
    "discover: splits as text": Case(found(splits="test"), 2, ("'test'", "Give ['train', 'test']")),
    "discover: an unknown split": Case(found(splits=["dev"]), 2, ("There is no split 'dev'", "validation")),
    "discover: a split twice": Case(found(splits=["test", "test"]), 2, ("['test', 'test']",)),
    "discover: an unknown ranking": Case(found(rankings=["best"]), 2, ("There is no ranking 'best'", "Known:")),
    "discover: rankings as text": Case(found(rankings="signed"), 2, ("'signed'", "Give a list")),
    "discover: a seed as text": Case(found(seed="0"), 2, ("The seed '0'",)),
    "discover: a negative seed": Case(found(seed=-1), 2, ("The seed -1", "such as 0")),
    "discover: a faithfulness as text": Case(found(faithfulness="high"), 2, ("'high'",)),
    "discover: a faithfulness that is NaN": Case(found(faithfulness=math.nan), 2, ("nan",)),
    "discover: strategy_args of no mapping": Case(found(strategy_args=[1]), 2, ("[1]",)),
    "discover: an unknown argument": Case(found(strategy_args={"steps": 3}), 2, ("There is no EAP argument 'steps'",)),
    "discover: out as a number": Case(found(out=5), 2, ("5 is no path", "Give a text")),
    "discover: out with a null": Case(found(out="a\0b"), 2, ("null character",)),
    "discover: out is a file": Case(found(out="plain.txt"), 2, ("'plain.txt' is not a folder",)),
    "discover: out holds a run": Case(found(out="run"), 2, ("'run' already holds results", "--overwrite")),
    "discover: a name too long": Case(found(out="a" * 300, sizes=[]), 1, ("cannot be written",)),
    "discover: overwrite as text": Case(found(out="run", overwrite="yes"), 2, ("overwrite='yes'", "True nor False")),
    "discover: resume as text": Case(found(out="run", resume="yes"), 2, ("resume='yes'", "True nor False")),
    "Discoverer.dry_run: overwrite as text": Case(
        lambda: Discoverer(callbacks=[]).dry_run("toy", "ioi", "eap", out="run", overwrite="no"), 2, ("overwrite='no'",)
    ),
    "discover: a closed folder": Case(found(out="closed/x", sizes=[]), 1, ("closed/x", "cannot be"), closed_folder),
    "discover: a task needs a tokenizer": Case(
        lambda: discover(model(), "ioi", "eap"), 2, ("no tokenizer", "PromptBatch.from_ids")
    ),
    "Discoverer: accelerator": Case(lambda: Discoverer(accelerator="tpu"), 2, ("'tpu'", "Choose 'auto'")),
    "Discoverer: no devices": Case(lambda: Discoverer(devices=0), 2, ("devices=0",)),
    "Discoverer: a callback alone": Case(lambda: Discoverer(callbacks=print), 2, ("callbacks=", "is no list")),
    "Discoverer: loggers": Case(lambda: Discoverer(loggers=5), 2, ("loggers=5 is no list",)),
    "Discoverer: a number among the loggers": Case(
        lambda: Discoverer(loggers=[5]), 2, ("5 among the loggers is no logger of Lightning",)
    ),
    "Discoverer: memory": Case(lambda: Discoverer(memory_budget="much"), 2, ("'much' is not a size", "2GB")),
    "Discoverer: trusted_only": Case(lambda: Discoverer(trusted_only="yes"), 2, ("trusted_only='yes'", "True")),
    "Discoverer.run: an unknown option": Case(
        lambda: Discoverer(callbacks=[]).run("toy", "ioi", "eap", size=[1]), 2, ("'size'", "Did you mean 'sizes'")
    ),
    "Discoverer.run: a seed": Case(
        lambda: Discoverer(callbacks=[]).run("toy", "ioi", "eap", seed=1),
        2,
        ("seed is no option of a single run", "Give it to Discoverer(seed=...)"),
    ),
    "Discoverer.dry_run: a seed": Case(
        lambda: Discoverer(callbacks=[]).dry_run("toy", "ioi", "eap", seed=1), 2, ("Discoverer(seed=...)",)
    ),
    # Prompts
    "PromptBatch: no prompts": Case(lambda: batch([], clean=[], corrupted=[]), 2, ("no prompts", "at least one")),
    "PromptBatch: texts": Case(lambda: batch(["d"], clean=["a b"], corrupted=["a c"]), 2, ("token ids", "list")),
    "PromptBatch: None": Case(lambda: batch(None, clean=None, corrupted=None), 2, ("not rows of token ids",)),
    "PromptBatch: unequal lengths": Case(
        lambda: batch([3], clean=[[1, 2]], corrupted=[[1]]), 2, ("2 clean and 1 corrupted tokens", "same length")
    ),
    "PromptBatch: unequal numbers": Case(
        lambda: batch([1, 2], corrupted=PAIRS[1][:1]), 2, ("2 clean and 1 corrupted prompts", "pairs")
    ),
    "PromptBatch: too few answers": Case(lambda: batch([1]), 2, ("1 answers for 2 prompts",)),
    "PromptBatch: answers as texts": Case(lambda: batch(["x", "y"]), 2, ("'x' among its answers", "Give token ids")),
    "PromptBatch: a negative id": Case(lambda: batch([1, 2], clean=[[1, -2, 3], [1, 2, 4]]), 2, ("-2",)),
    "PromptBatch: fractions": Case(lambda: batch([1, 2], clean=[[1.5, 2, 3], [1, 2, 4]]), 2, ("1.5",)),
    "PromptBatch: a position outside": Case(lambda: batch([1, 2], answer_positions=[9, 9]), 2, ("no position 9",)),
    "PromptBatch: right and wrong": Case(lambda: batch([1, 2], [1, 2]), 2, ("both as an answer", "Remove it")),
    "PromptBatch: templates": Case(lambda: batch([1, 2], templates=["a"]), 2, ("1 templates for 2 prompts",)),
    "PromptBatch.join: nothing": Case(lambda: PromptBatch.join([]), 2, ("[] are no batches",)),
    "PromptBatch.split: 0": Case(lambda: random_batch().split(0), 2, ("size=0", "such as 8")),
    "PromptBatch.to: no device": Case(lambda: random_batch().to("gpu"), 2, ("'gpu'", "Choose cpu")),
    "discover: ids outside the vocabulary": Case(
        lambda: discover(model(), batch([1, 2], clean=[[1, 99, 3], [1, 2, 4]]), "eap"), 2, ("token 99", "37 tokens")
    ),
    "discover: no wrong answers": Case(
        lambda: discover(model(), batch([1, 2]), "eap"), 2, ("needs wrong answers", "another objective")
    ),
    "discover: corrupted as clean": Case(
        lambda: discover(model(), batch([1, 2], [3, 4], corrupted=PAIRS[0]), "eap"), 2, ("the same", "differ")
    ),
    "discover: prompts too long": Case(
        lambda: discover(model(), batch([1], [2], clean=[[1] * 99], corrupted=[[2] * 99]), "eap"),
        2,
        ("99 tokens", "positions for 64", "shorter"),
    ),
    "prompts: an unknown split": Case(
        lambda: circuitkit.tasks.IOI().prompts(None, "dev", 4, 0), 2, ("There is no split 'dev'",)
    ),
    "prompts: a tokenizer's name": Case(
        lambda: circuitkit.tasks.IOI().prompts("gpt2", "train", 4, 0), 2, ("'gpt2' is no tokenizer",)
    ),
    "preview: a model's name": Case(lambda: circuitkit.tasks.IOI().preview("toy"), 2, ("'toy' is no model",)),
}
COMPARISONS = {
    "compare: a number": Case(check(5), 2, ("5 is no grid", "YAML")),
    "compare: a file that is not there": Case(check("nowhere.yaml"), 2, ("'nowhere.yaml'", "Check the path")),
    "compare: a folder": Case(check("empty"), 2, ("'empty' cannot be read",)),
    "compare: nothing": Case(check({}), 2, ("No models",)),
    "compare: an unknown key": Case(compared(stratgies=1), 2, ("'stratgies'", "Did you mean 'strategies'")),
    "compare: a list of models": Case(compared(models=["toy"]), 2, ("models is", "Give a mapping")),
    "compare: no models": Case(compared(models={}), 2, ("no models", "`models:`")),
    "compare: a seed": Case(compared(seeds=[-1]), 2, ("The seed -1",)),
    "compare: a seed twice": Case(compared(seeds=[0, 0]), 2, ("The seed 0 is given twice",)),
    "compare: a size": Case(compared(sizes=[3]), 2, ("3",)),
    "compare: a time limit": Case(compared(time_limit=-1), 2, ("time_limit=-1", "above 0")),
    "compare: a rule": Case(compared(exclude=[{"stratgies": "eap"}]), 2, ("'stratgies'",)),
    "compare: a rule for a label": Case(compared(include=[{"strategies": "acdc"}]), 2, ("'acdc'",)),
    "compare: nothing left": Case(compared(exclude=[{"strategies": "eap"}]), 2, ("no cells left", "fewer")),
    "compare: an override": Case(compared(overrides=[{"cells": {}}]), 2, ("`cells` and `set`", "Give one such as")),
    "compare: a dtype": Case(compared(dtype="int4"), 2, ("'int4'", "Choose float32")),
    "compare: an argument": Case(
        compared(strategies={"a": {"class_path": "acdc", "init_args": {"thresh": 1}}}), 2, ("'thresh'", "threshold")
    ),
    "compare: a class path": Case(compared(tasks={"a": "os.getcwd"}), 2, ("os.getcwd",)),
    "compare: workers": Case(compared({"workers": 0}), 2, ("workers=0", "cells")),
    "compare: an executor": Case(compared({"executor": "slurm"}), 2, ("'slurm'", "Known: process, ray")),
    "compare: resume and overwrite": Case(
        compared({"resume": True, "overwrite": True, "out": "x"}), 2, ("exclude each other",)
    ),
    "compare: progress": Case(compared({"progress": True}), 2, ("progress=True is no GridProgress",)),
    "compare: resume as text": Case(compared({"resume": "yes", "out": "x"}), 2, ("resume='yes'", "True nor False")),
    "compare: overwrite as text": Case(compared({"overwrite": ""}), 2, ("overwrite=''", "True nor False")),
    "compare: out as a number": Case(compared({"out": 5}), 2, ("5 is no path",)),
    "compare: out is a file": Case(compared({"out": "plain.txt"}), 2, ("'plain.txt' is not a folder",)),
    "compare: out is a run": Case(compared({"out": "run"}), 2, ("'run'",)),
    "compare: a closed folder": Case(compared({"out": "closed/x"}), 1, ("cannot be written",), closed_folder),
    "compare: a full disk": Case(compared({"out": "x"}), 1, ("No space left",), full_disk),
}
