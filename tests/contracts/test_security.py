"""What SECURITY.md promises of the source: no pickle is loaded, no code from the hub is run, no text is executed."""

import ast
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from support.tiny import tiny_hf

import circuitkit
from circuitkit.circuit.circuit import Circuit
from circuitkit.errors import CircuitKitError, UsageError
from circuitkit.models.circuit_model import CircuitModel

SOURCES = sorted(Path(circuitkit.__file__).parent.rglob("*.py"))
UNPICKLERS = {
    "pickle",
    "_pickle",
    "cPickle",
    "dill",
    "cloudpickle",
    "joblib",
    "shelve",
    "marshal",
    "hickle",
    "jsonpickle",
}
CALLS = {
    **dict.fromkeys(("eval", "exec", "compile", "__import__"), "runs text"),
    **dict.fromkeys(("read_pickle", "read_hdf", "extractall", "unpack_archive"), "loads what may hold code"),
    **dict.fromkeys(("full_load", "unsafe_load", "load_all", "full_load_all", "unsafe_load_all"), "YAML with objects"),
    **dict.fromkeys(("system", "popen"), "runs a shell"),
}
"""Names that nothing may call."""
NEEDED = {
    "torch.load": {"weights_only": True},
    "np.load": {"allow_pickle": False},
    "numpy.load": {"allow_pickle": False},
    "trainer.fit": {"weights_only": True},
    "AutoConfig.from_pretrained": {"trust_remote_code": False},
    "AutoTokenizer.from_pretrained": {"trust_remote_code": False},
    "AutoModelForCausalLM.from_pretrained": {"trust_remote_code": False, "weights_only": True},
}
"""Calls that must say this."""
REFUSED = {("trust_remote_code", True), ("allow_pickle", True), ("weights_only", False), ("shell", True)}


def find_problems(tree: ast.AST) -> Iterator[str]:
    """Yield what in some source breaks a promise, with its line."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found = [one.name for one in node.names if one.name.partition(".")[0] in UNPICKLERS and _hides(one)]
        elif isinstance(node, ast.ImportFrom):
            module = node.module or ""
            loads = module in ("torch", "numpy") and any(one.name == "load" for one in node.names)
            found = [module] if module.partition(".")[0] in UNPICKLERS or loads else []
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in UNPICKLERS:
            found = (
                [] if node.attr == "UnpicklingError" else [f"{node.value.id}.{node.attr}"]
            )  # what `torch.load` raises
        elif isinstance(node, ast.Attribute) and ast.unparse(node) in ("torch.hub", "torch.jit.load", "yaml.load"):
            found = [ast.unparse(node)]
        elif isinstance(node, ast.Call):
            found = list(_problems_of_call(node))
        else:
            continue
        yield from (f"line {node.lineno}: {one}" for one in found)


def _hides(imported: ast.alias) -> bool:
    """Tell whether an import of an unpickler cannot be followed: all but a plain `import pickle`."""
    return imported.name != "pickle" or imported.asname is not None


def _problems_of_call(call: ast.Call) -> Iterator[str]:
    name = ast.unparse(call.func)
    given = {one.arg: one.value.value for one in call.keywords if one.arg and isinstance(one.value, ast.Constant)}
    if isinstance(call.func, ast.Name) and name in CALLS:
        yield f"{name} {CALLS[name]}"
    elif name.rpartition(".")[2] in CALLS and name.partition(".")[0] in (
        "os",
        "pd",
        "pandas",
        "yaml",
        "archive",
        "shutil",
    ):
        yield f"{name} {CALLS[name.rpartition('.')[2]]}"
    for key, value in NEEDED.get(name, {}).items():
        if given.get(key, ...) is not value:
            yield f"{name} without {key}={value}"
    yield from (f"{name} with {key}={value}" for key, value in given.items() if (key, value) in REFUSED)


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.name)
def test_no_file_of_the_package_breaks_a_promise(path: Path) -> None:
    assert list(find_problems(ast.parse(path.read_text(encoding="utf-8")))) == []


@pytest.mark.parametrize(
    "text",
    [
        "import dill",
        "import joblib.numpy_pickle",
        "from pickle import load",
        "pickle.loads(data)",
        "import pickle as p",
        "from torch import load",
        "AutoModelForCausalLM.from_pretrained(name, trust_remote_code=False)",
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "torch.load(path, weights_only=wanted)",
        "np.load(path)",
        "np.load(path, allow_pickle=True)",
        "pd.read_pickle(path)",
        "yaml.load(text, Loader=yaml.Loader)",
        "yaml.unsafe_load(text)",
        "AutoConfig.from_pretrained(name)",
        "AutoTokenizer.from_pretrained(name, trust_remote_code=True)",
        "load(name, trust_remote_code=True)",
        "trainer.fit(module, batches, ckpt_path=path)",
        "torch.hub.load(name)",
        "eval(text)",
        "exec(text)",
        "os.system(text)",
        "subprocess.run(text, shell=True)",
        "shutil.unpack_archive(path)",
    ],
)
def test_the_search_finds_each(text: str) -> None:
    assert list(find_problems(ast.parse(text)))


def test_what_the_package_does_is_no_problem() -> None:
    text = "import pickle\ntorch.load(path, weights_only=True)\npickle.UnpicklingError\nyaml.safe_load(x)\nmodel.eval()"
    assert list(find_problems(ast.parse(text))) == []


class Evil:
    """A pickle that makes a file when it is loaded."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (open, ("loaded", "w"))


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_a_pickle_among_eap_igs_files_is_not_run() -> None:
    torch.save({"cfg": {}, "src_nodes": Evil()}, "evil.pt")
    with pytest.raises(CircuitKitError, match="not a torch file of tensors alone"):
        Circuit.from_eap_ig("evil.pt")
    assert not Path("loaded").exists()


def test_a_pickle_among_a_models_files_is_not_run() -> None:
    tiny_hf("gpt2").save_pretrained("model")
    Path("model/model.safetensors").unlink()
    torch.save({"transformer.wte.weight": Evil()}, "model/pytorch_model.bin")
    with pytest.raises(CircuitKitError, match="cannot be loaded"):
        CircuitModel.from_pretrained("model")
    assert not Path("loaded").exists()


def write_config(**entries: object) -> None:
    """Write a folder of a model whose config names code, which lies beside it."""
    tiny_hf("gpt2").save_pretrained("model")
    Path("model/own.py").write_text("open('loaded', 'w')")
    config = json.loads(Path("model/config.json").read_text())
    Path("model/config.json").write_text(json.dumps(config | entries))


def test_code_beside_a_model_is_not_run() -> None:
    write_config(auto_map={"AutoConfig": "own.Config", "AutoModelForCausalLM": "own.Model"})
    assert CircuitModel.from_pretrained("model").graph.layers == 2  # by transformers' own class
    assert not Path("loaded").exists()


@pytest.mark.parametrize(
    "entries",
    [{"auto_map": {"AutoConfig": "own.Config"}, "model_type": "own"}, {"attn_implementation": "someone/kernel"}],
)
def test_a_model_that_needs_code_is_refused(entries: dict[str, object]) -> None:
    write_config(**entries)
    with pytest.raises(UsageError, match="'model'"):
        CircuitModel.from_pretrained("model")
    assert not Path("loaded").exists()
