"""Sixty configs that cannot be: each is refused in one line, by `discover` and by `compare`, before any work."""

from pathlib import Path

import pytest

from circuitkit.cli.main import main

LAUGHS = "a: &a [1, 1, 1, 1, 1, 1, 1, 1, 1]\n" + "".join(
    f"{new}: &{new} [*{old}, *{old}, *{old}, *{old}, *{old}, *{old}, *{old}, *{old}, *{old}]\n"
    for old, new in zip("abcdefgh", "bcdefghi", strict=True)
)
ANY = {
    "empty": "",
    "a text": "text",
    "a list": "- 1\n",
    "a number": "1",
    "null": "null",
    "not YAML": "a: [}",
    "tabs": "a:\n\t- b\n",
    "NUL": "a: \x00",
    "two documents": "a: 1\n---\nb: 2\n",
    "an unknown tag": "a: !!python/object/apply:os.getcwd []",
    "a tag of one's own": "a: !mine 1",
    "a cycle": "seed: &a [*a]",
    "a cycle of mappings": "task: &a {class_path: ioi, init_args: *a}",
    "deep lists": "seed: " + "[" * 5000 + "]" * 5000,
    "deep but readable lists": "seed: " + "[" * 90 + "]" * 90,
    "deep mappings": "a: " + "{a: " * 3000 + "1" + "}" * 3000,
    "a billion laughs": LAUGHS,
    "an impossible date": "seed: 2026-02-30",
    "an impossible time": "seed: 2026-02-03T99:99:99Z",
    "an impossible number": "seed: 1__0:99:99",
    "a binary key": "? !!binary aGVsbG8=\n: 1\n",
    "a date as key": "2026-01-01: 1\n",
    "a list as key": "? [1, 2]\n: 1\n",
    "a mapping as key": "? {a: 1}\n: 1\n",
    "an unknown alias": "a: *b",
    "broken binary": "a: !!binary '###'",
    "a surrogate": 'model: "\\ud800"',
    "an unknown key": "modell: toy\n",
    "a key that is a number": "1: 2\n",
    "a key that is null": "null: 2\n",
    "a key that is empty": "'': 2\n",
    "a key with a dot": "a.b.c: 2\n",
    "a key with spaces": "a b: 2\n",
    "a private key": "__class__: 2\n",
    "a config in the config": "config: own.yaml\n",
    "a huge number": "examples: 1" + "0" * 5000,
    "infinity": "examples: .inf\n",
    "a merge of nothing": "<<: 1\n",
}
"""For both commands."""
DISCOVER = {
    "seed text": "seed: one",
    "seed list": "seed: [1]",
    "seed negative": "seed: -1",
    "seed date": "seed: 2026-01-01",
    "examples mapping": "examples: {a: 1}",
    "examples negative": "examples: -3",
    "model list": "model: [toy]",
    "model nothing": "model: ''",
    "model number": "model: 1",
    "kv": "kv: heads",
    "dtype": "dtype: [float32]",
    "devices": "devices: many",
    "out": "out: [1]",
    "task number": "task: 1",
    "task list": "task: [ioi]",
    "task empty": "task: {}",
    "task without class": "task: {init_args: {corruption: abc}}",
    "task path": "task: {class_path: no.such.Task}",
    "task path of dots": "task: {class_path: ...}",
    "task path that is a module": "task: {class_path: circuitkit.tasks.ioi}",
    "task path that is a function": "task: {class_path: circuitkit.tasks.base.check_request}",
    "abstract": "task: {class_path: circuitkit.tasks.base.Task}",
    "init_args list": "task: {class_path: ioi, init_args: [abc]}",
    "init_args text": "task: {class_path: ioi, init_args: abc}",
    "init_args number as key": "task: {class_path: ioi, init_args: {1: 2}}",
    "nested mapping": "strategy: {class_path: acdc, init_args: {threshold: {a: 1}}}",
    "nested dots": "strategy: {class_path: acdc, init_args: {threshold.a: 1}}",
    "threshold text": "strategy: {class_path: acdc, init_args: {threshold: [low]}}",
    "threshold nothing": "strategy: {class_path: acdc, init_args: {threshold: []}}",
    "budget": "memory_budget: plenty",
    "overwrite": "overwrite: maybe",
    "dry_run": "dry_run: 7",
}
COMPARE = {
    "models list": "models: [toy]",
    "models text": "models: toy",
    "models number": "models: {toy: 1}",
    "models null": "models: {toy: null}",
    "models list inside": "models: {toy: [toy]}",
    "models nested": "models: {toy: {name: {a: 1}}}",
    "tasks null": "tasks: null",
    "tasks inside null": "tasks: {ioi: null}",
    "tasks number": "tasks: {ioi: 3}",
    "strategies none": "strategies: {}",
    "strategies list": "strategies: {eap: [eap]}",
    "strategies unknown": "strategies: {eap: pea}",
    "strategies path": "strategies: {eap: no.such.Strategy}",
    "strategies init": "strategies: {eap: {class_path: eap, init_args: 1}}",
    "seeds text": "seeds: [one]",
    "seeds number": "seeds: 1.5",
    "seeds negative": "seeds: [-1]",
    "seeds none": "seeds: []",
    "examples": "examples: 0",
    "sizes falling": "sizes: [0.5, 0.1]",
    "sizes none": "sizes: []",
    "sizes text": "sizes: [half]",
    "sizes not a number": "sizes: [.nan]",
    "exclude text": "exclude: [eap]",
    "exclude unknown": "exclude: [{strategies: pea}]",
    "exclude key": "exclude: [{strategy: eap}]",
    "exclude all": "exclude: [{strategies: [eap]}]",
    "exclude a mapping": "exclude: [{strategies: {a: 1}}]",
    "precision": "precision: {full: fool}",
    "dtype": "dtype: float33",
    "objectives": "objectives: [kl]",
    "include": "include: {strategies: eap}",
    "overrides text": "overrides: [eap]",
    "overrides half": "overrides: [{cells: {strategies: eap}}]",
    "overrides option": "overrides: [{cells: {strategies: eap}, set: {seed: 1}}]",
    "overrides nested": "overrides: [{cells: {strategies: eap}, set: {sizes: {a: 1}}}]",
    "time_limit": "time_limit: soon",
    "time_limit of nothing": "time_limit: 0",
    "memory_budget": "memory_budget: [1]",
    "workers": "workers: 0",
}
PLAIN = {
    "discover": "model: toy\ntask: ioi\nstrategy: eap\n",
    "compare": "models: {toy: toy}\ntasks: {ioi: ioi}\nstrategies: {eap: eap}\n",
}


def merged(command: str, text: str) -> str:
    """Add the entries that every config needs, unless the text has them or is no mapping."""
    if ":" not in text:
        return text
    own = [line for line in PLAIN[command].splitlines(keepends=True) if f"{line.partition(':')[0]}:" not in text]
    return f"{text}\n{''.join(own)}"


CASES = [
    *((command, name, merged(command, text)) for command in PLAIN for name, text in ANY.items()),
    *(("discover", name, merged("discover", text)) for name, text in DISCOVER.items()),
    *(("compare", name, merged("compare", text)) for name, text in COMPARE.items()),
]


def test_there_are_sixty() -> None:
    assert min(len(ANY) + len(DISCOVER), len(ANY) + len(COMPARE)) >= 60


@pytest.mark.parametrize(("command", "name", "text"), CASES, ids=[f"{case[0]}: {case[1]}" for case in CASES])
def test_a_hostile_config_is_refused_in_one_line(
    command: str,
    name: str,
    text: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("own.yaml").write_text(text)
    assert main([command, "--config", "own.yaml"]) in (1, 2)
    shown, errors = capsys.readouterr()
    assert shown == ""
    assert errors.startswith("circuitkit: ")
    assert errors.count("\n") == 1, errors
    assert len(errors) < 800
    assert [path.name for path in tmp_path.iterdir()] == ["own.yaml"]
