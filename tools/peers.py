"""Compare this package's edge scores, time and memory with those of other packages: the figures of docs/peers.md.

    python tools/peers.py --env FOLDER [--eap-ig CLONE] [--models tiny gpt2] [--rounds 3] [--smoke]

The other packages are installed in FOLDER, in two virtual environments with the versions that ENVIRONMENTS pins; what
is there already is used again. EAP-IG is not on PyPI: CLONE is a clone of https://github.com/hannamw/EAP-IG, from which
the commit that EAP_IG names is taken; without CLONE it is left out.

`tiny` is a random GPT-2 of 4 layers with 4 heads, `gpt2` has the shape of GPT-2 small and random weights. Each gets 8
prompts of 16 random tokens. Every package runs alone, in a process and with one thread; times are seconds of the
processor, so other work on the machine matters less. Printed are tables in Markdown, then a JSON object with all
figures. `--smoke` compares this package with itself on `tiny` and installs nothing.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from transformers import GPT2Config, GPT2LMHeadModel

ENVIRONMENTS = {
    "lens4": ["torch==2.13.0", "transformers==5.23.0", "transformer-lens==4.3.0"],
    "lens2": [
        "torch==2.13.0",
        "numpy==1.26.4",
        "pyarrow==21.0.0",
        "transformers==4.57.6",
        "transformer-lens==2.18.0",
        "auto-circuit==1.0.1",
        "matplotlib",
    ],
}
EAP_IG = "795f5607b25638935aec89aee3c1cb4bd9ed72f1"
MODELS = {
    "tiny": GPT2Config(
        n_layer=4,
        n_head=4,
        n_embd=64,
        vocab_size=128,
        n_positions=32,
        initializer_range=0.1,
        bos_token_id=0,
        eos_token_id=0,
    ),
    "gpt2": GPT2Config(),
}
PROMPTS, LENGTH = 8, 16


class Peer(NamedTuple):
    """A package, the environment that has it (`""`: this one), a method, and how a table calls it."""

    package: str
    environment: str
    method: str
    title: str


OURS = [
    Peer("circuitkit", "", "eap", "circuitkit (this package), EAP"),
    Peer("circuitkit", "", "eap-ig", "circuitkit (this package), EAP-IG"),
]
PEERS = [
    Peer("transformer-lens", "lens4", "eap", "TransformerLens 4.3.0, `attribution_patch`"),
    Peer("auto-circuit", "lens2", "eap", "auto-circuit 1.0.1, `mask_gradient_prune_scores`"),
    Peer("eap-ig", "lens2", "eap", f"EAP-IG {EAP_IG[:7]}, `EAP`"),
    Peer("eap-ig", "lens2", "eap-ig", f"EAP-IG {EAP_IG[:7]}, `EAP-IG-inputs`"),
]


def install(folder: Path, clone: Path | None) -> None:
    """Make the environments that are not there yet, and take EAP-IG's files from a clone."""
    for name, packages in ENVIRONMENTS.items():
        python = folder / name / "bin" / "python"
        if not (folder / name / "complete").exists():
            subprocess.run([sys.executable, "-m", "venv", "--clear", folder / name], check=True)
            subprocess.run([python, "-m", "pip", "install", "-q", *packages], check=True)
            (folder / name / "complete").touch()
    if clone is not None:
        archive = subprocess.run(["git", "-C", clone, "archive", EAP_IG, "src/eap"], check=True, capture_output=True)
        (folder / "eap-ig").mkdir(exist_ok=True)
        subprocess.run(["tar", "-x", "-C", folder / "eap-ig"], input=archive.stdout, check=True)


def write_inputs(folder: Path, name: str) -> None:
    """Write a random model and random prompts where all packages read them."""
    torch.manual_seed(0)
    GPT2LMHeadModel(MODELS[name]).save_pretrained(folder / "model")
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(2, MODELS[name].vocab_size, (2, PROMPTS, LENGTH + 1), generator=generator)
    ids[:, :, 0] = 0  # the first token begins a text
    (clean, corrupted), answers = ids[:, :, :-1].tolist(), ids[:, :, -1].tolist()
    prompts = {"clean": clean, "corrupted": corrupted, "answers": answers[0], "wrong_answers": answers[1]}
    (folder / "prompts.json").write_text(json.dumps(prompts))


def run_peer(peer: Peer, environments: Path, folder: Path, rounds: int) -> dict[str, Any]:
    """Run one package in its environment; return what `peer_run.py` prints."""
    python = environments / peer.environment / "bin" / "python" if peer.environment else Path(sys.executable)
    script = Path(__file__).with_name("peer_run.py")
    threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    variables = os.environ | threads | {"HF_HUB_OFFLINE": "1", "WANDB_MODE": "disabled"}
    if peer.package == "eap-ig":
        variables["PYTHONPATH"] = str(environments / "eap-ig" / "src")
    elif peer.environment:
        variables.pop("PYTHONPATH", None)
    command = [str(python), str(script), peer.package, peer.method, str(folder), "--rounds", str(rounds)]
    done = subprocess.run(command, env=variables, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{peer.title} failed:\n{done.stderr[-3000:]}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def compare(ours: Mapping[str, float], theirs: Mapping[str, float]) -> dict[str, float]:
    """Compare two packages' scores: the largest difference, relative to our largest score, and the correlation."""
    if ours.keys() != theirs.keys():
        odd = sorted(ours.keys() ^ theirs.keys())
        raise SystemExit(f"The packages have different edges, {len(odd)} of them, such as {odd[0]}.")
    first, second = (np.array([scores[name] for name in ours], dtype=np.float64) for scores in (ours, theirs))
    return {
        "edges": len(ours),
        "difference": float(np.abs(first - second).max() / np.abs(first).max()),
        "correlation": float(np.corrcoef(first, second)[0, 1]),
    }


def make_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Format the figures of one model."""
    lines = ["| | seconds | memory, MiB | largest difference | correlation |", "|---|---|---|---|---|"]
    for row in rows:
        cells = [row["title"], f"{row['seconds']:.2f}", f"{row['peak_mb']:.0f}"]
        cells += [f"{row['difference']:.0e}", f"{row['correlation']:.6f}"] if "difference" in row else ["", ""]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def measure_model(name: str, peers: Sequence[Peer], environments: Path, rounds: int) -> list[dict[str, Any]]:
    """Run all packages on one model, one after the other; return the rows of its table."""
    rows: list[dict[str, Any]] = []
    scores: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as temporary:
        write_inputs(Path(temporary), name)
        for peer in [*OURS, *peers]:
            found = run_peer(peer, environments, Path(temporary), rounds)
            row = {"title": peer.title, "peak_mb": round(found["peak_mb"], 1)}
            row |= {"seconds": round(statistics.median(found["seconds"]), 3)}
            if peer.method in scores:
                row |= compare(scores[peer.method], found["scores"])
            scores.setdefault(peer.method, found["scores"])
            print(f"{name}: {peer.title}: {row['seconds']:.2f} s", file=sys.stderr, flush=True)
            rows.append(row)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--env", type=Path, help="folder for the other packages' environments")
    parser.add_argument("--eap-ig", type=Path, help="a clone of EAP-IG's repository")
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--smoke", action="store_true")
    arguments = parser.parse_args()
    if arguments.smoke:
        arguments.env, arguments.models, peers = Path(), ["tiny"], OURS
    elif arguments.env is None:
        parser.error("--env is needed: a folder for the environments of the other packages")
    else:
        arguments.env = arguments.env.resolve()
        install(arguments.env, arguments.eap_ig)
        peers = [peer for peer in PEERS if peer.package != "eap-ig" or arguments.eap_ig]
    result: dict[str, Any] = {"torch": torch.__version__, "python": platform.python_version()}
    for name in arguments.models:
        result[name] = measure_model(name, peers, arguments.env, arguments.rounds)
        print(f"\n{name}\n\n{make_table(result[name])}\n")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
