"""Mistakes in commands."""

from support.mistakes import Case, D, closed_folder, cut, full_disk, no_cache, offline, pip, put

COMMANDS = {
    "discover: a strategy that is a task": Case([*D, "--strategy", "circuitkit.tasks.ioi.IOI"], 2, ("IOI",)),
    "discover: a strategy that is a function": Case([*D, "--strategy", "os.system"], 2, ("os.system",)),
    "discover: dtype": Case([*D, "--dtype", "int8"], 2, ("'int8'", "Choose float32")),
    "discover: an option without its value": Case([*D, "--seed"], 2, ("seed",)),
    "discover: an abbreviated option": Case([*D, "--exampl", "4"], 2, ("'exampl'", "Did you mean 'examples'")),
    "discover: sizes": Case([*D, "--sizes", "[2]"], 2, ("2",)),
    "discover: splits": Case([*D, "--splits", "test"], 2, ("splits is 'test'", "in brackets, such as [a, b]")),
    "compare: models": Case(["compare", "--models", "toy"], 2, ("models is 'toy'", "such as {key: value}")),
    "discover: null as seed": Case([*D, "--seed", "null"], 2, ("seed is null. Give a whole number",)),
    "discover: null as examples": Case([*D, "--examples", "null"], 2, ("examples is null. Give a whole number or",)),
    **{
        f"discover: null as {name}": Case(
            [*D, f"--{name}", "null"], 2, (f"{name} is null", f"`circuitkit list {kind}`) or a class path")
        )
        for name, kind in {"ablation": "ablations", "strategy": "strategies", "task": "tasks"}.items()
    },
    "discover: a file as task": Case(
        [*D, "--task", "plain.txt"], 2, ("'plain.txt' is a file", ".csv, .jsonl or .json")
    ),
    "discover: a file as strategy": Case([*D, "--strategy", "plain.txt"], 2, ("'plain.txt' is a file", "MyClass")),
    "discover: a Python file as strategy": Case(
        [*D, "--strategy", "./own.py"], 2, ("'./own.py' is a file", "own.MyClass"), put("own.py", "1 / 0")
    ),
    "check: a file": Case(["check", "./plain.txt"], 2, ("'./plain.txt' is a file", ".csv, .jsonl or .json")),
    "discover: resume nowhere": Case([*D, "--resume"], 2, ("--resume", "--out")),
    "discover: memory": Case([*D, "--memory_budget", "much"], 2, ("'much'", "2GB")),
    "discover: an unreachable hub": Case([*D, "--model", "no-such/model"], 2, ("'no-such/model'",), offline),
    "discover: not fetched": Case([*D, "--model", "smollm2-135m"], 2, ("circuitkit fetch smollm2-135m",), no_cache),
    "discover: a full disk": Case([*D, "--sizes", "[]", "--out", "x"], 1, ("No space left",), full_disk),
    "discover: a closed folder": Case([*D, "--out", "closed/x"], 1, ("closed/x",), closed_folder),
    "discover: a config with Python in it": Case(
        ["discover", "--config", "c.yaml"], 2, ("'c.yaml'",), put("c.yaml", "a: !!python/name:os.system")
    ),
    "compare: a config that is binary": Case(
        ["compare", "--config", "c.yaml"], 2, ("'c.yaml'",), put("c.yaml", b"\xff\xfe\x00")
    ),
    "compare: a label that leads out": Case(
        ["compare", "--strategies", "{../../x: nope}", "--out", "x"], 2, ("'nope'",)
    ),
    "compare: workers": Case(["compare", "--workers", "many"], 2, ("workers is 'many'", "whole number")),
    "compare: an unreachable hub": Case(
        ["compare", "--models", "{a: smollm2-135m}"], 2, ("circuitkit fetch smollm2-135m",), no_cache
    ),
    "evaluate: nothing": Case(["evaluate"], 2, ("No run", "--help")),
    "evaluate: an unknown ranking": Case(["evaluate", "run", "--rankings", "[x]"], 2, ("There is no ranking 'x'",)),
    "evaluate: an unknown reference": Case(["evaluate", "run", "--reference", "x"], 2, ("There is no 'x'",)),
    "evaluate: an unknown option": Case(["evaluate", "run", "--size", "[1]"], 2, ("'size'", "Did you mean 'sizes'")),
    "evaluate: cut": Case(["evaluate", "run"], 1, ("is damaged",), cut("circuit.safetensors")),
    "evaluate: a full disk": Case(
        ["evaluate", "run", "--sizes", "[]", "--splits", "[test]"], 1, ("No space left",), full_disk
    ),
    "report: nothing": Case(["report"], 2, ("No folder", "--help")),
    "report: nowhere": Case(["report", "nowhere"], 2, ("There is no folder 'nowhere'",)),
    "report: a file": Case(["report", "plain.txt"], 2, ("'plain.txt' is not a folder",)),
    "report: an unknown reference": Case(["report", "run", "--reference", "x"], 2, ("'x'",)),
    "report: a damaged run": Case(["report", "run"], 1, ("is damaged",), cut("result.json")),
    "report: out is a file": Case(["report", "run", "--out", "plain.txt"], 2, ("plain.txt",)),
    "report: a full disk": Case(["report", "run", "--out", "page"], 1, ("No space left",), full_disk),
    "list: a model of no tasks": Case(["list", "models", "--model", "toy"], 2, ("--model", "list tasks")),
    "list: an unknown model": Case(["list", "tasks", "--model", "no-such/model"], 2, ("'no-such/model'",), offline),
    "fetch: two": Case(["fetch", "smollm2-135m", "more"], 2, ("more",)),
    "fetch: no index": Case(
        ["fetch", "smollm2-135m"], 1, ("could not download", "network"), pip(1, "ERROR: Connection refused\n")
    ),
    "fetch: another file": Case(["fetch", "smollm2-135m"], 1, ("does not hold", "purge"), pip(0, "", b"x" * 99)),
}
