"""A model together with the edges that matter in it."""

import csv
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from circuitkit.circuit.circuit import Circuit
from circuitkit.errors import UsageError
from circuitkit.models.circuit_model import CircuitModel
from circuitkit.tasks.base import Split
from circuitkit.truth.confirmation import Confirmation, confirm
from circuitkit.truth.task import ProgramTask

AblationName = Literal["resample", "mean", "zero"]
ABLATIONS: tuple[AblationName, ...] = get_args(AblationName)


@dataclass(frozen=True)
class KnownCircuit:
    """A model whose circuit is known by construction. Make one with `Program.build`.

    Attributes:
        model: with a tokenizer.
        task: whose prompts the program computes.
        program: its name.
        suits: the ablation under which the task shows the circuit best.
        circuits: by ablation, names of edges: all that matter, then, if the program is redundant, those of each circuit
            that is enough for itself.
        objective: the name of the objective in which they matter.
    """

    model: CircuitModel
    task: ProgramTask
    program: str
    suits: AblationName
    circuits: Mapping[AblationName, Sequence[Sequence[str]]]
    objective: str = "logit_difference"

    def truth(self, ablation: str) -> Circuit:
        """Return the circuit of all edges that matter under an ablation.

        Raises:
            UsageError: the truth is not known for this ablation.
        """
        return Circuit.from_names(self.model.graph, self._circuits(ablation)[0])

    def alternatives(self, ablation: str) -> list[Circuit]:
        """Return the circuits each of which is enough: the truth itself, or its parts if the program is redundant.

        Raises:
            UsageError: as `truth`.
        """
        every = self._circuits(ablation)
        return [Circuit.from_names(self.model.graph, names) for names in every[1:] or every]

    def confirm(self, ablation: str, examples: int = 16, seed: int = 0) -> Confirmation:
        """Check the truth by exact ablation of every edge; see `confirmation`.

        Args:
            ablation: `"resample"`, `"mean"` or `"zero"`.
            examples: the number of prompts of the train split.
            seed: of the prompts.

        Raises:
            UsageError: as `truth`.
        """
        batch = self.task.prompts(self.model.tokenizer, "train", examples, seed)
        return confirm(self.model, batch, ablation, self.truth(ablation), self.alternatives(ablation))

    def save(self, folder: str | Path, examples: int = 64, seed: int = 0) -> None:
        """Write what the command line needs into an empty or new folder; if that fails, nothing is left in it.

        - `model`: an ordinary folder of transformers' with model and tokenizer.
        - `prompts.csv`: prompts of all splits, for the task `prompt_file`.
        - `truth_resample`, `truth_mean`, `truth_zero`: circuits, for `--reference`.

        Args:
            folder: where to write.
            examples: the number of prompts per split.
            seed: of the prompts.

        Raises:
            UsageError: the folder cannot be written, or has files already.
        """
        folder = Path(folder)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            if any(folder.iterdir()):
                raise UsageError(f"{str(folder)!r} is not empty.", "Delete it, or choose another folder.")
            with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.") as temporary:
                self._write(Path(temporary, "new"), examples, seed)
                folder.rmdir()
                Path(temporary, "new").rename(folder)
        except OSError as error:
            raise UsageError(f"{folder} cannot be written: {error.strerror}.", "Choose another folder.") from error

    def _write(self, folder: Path, examples: int, seed: int) -> None:
        folder.mkdir()
        with (folder / "prompts.csv").open("w", encoding="utf-8", newline="") as file:
            rows = self._rows(examples, seed)
            writer = csv.DictWriter(file, rows[0].keys())
            writer.writeheader()
            writer.writerows(rows)
        for part in (self.model.model, self.model.tokenizer):
            assert part is not None
            part.save_pretrained(folder / "model")
        for ablation in ABLATIONS:
            self.truth(ablation).save(folder / f"truth_{ablation}")

    def _rows(self, examples: int, seed: int) -> list[dict[str, Any]]:
        """Return the rows of `prompts.csv`, with sets of answers as token ids, as in EAP-IG's files."""
        assert self.model.tokenizer is not None
        rows = []
        for split in get_args(Split):
            for pair in self.task.pairs(split, examples, seed):
                row = {"split": split, "clean": " ".join(pair.clean), "corrupted": " ".join(pair.corrupted)}
                for column, words in (("correct_idx", pair.answers), ("incorrect_idx", pair.wrong_answers)):
                    row[column] = str(self.model.tokenizer.convert_tokens_to_ids(list(words)))
                rows.append(row | ({"template": pair.template} if pair.template else {}))
        return rows

    def _circuits(self, ablation: str) -> Sequence[Sequence[str]]:
        found = {str(known): circuits for known, circuits in self.circuits.items()}
        if ablation not in found:
            problem = f"The truth is not known for the ablation {ablation!r}."
            raise UsageError(problem, f"Choose one of {', '.join(found)}.")
        return found[ablation]
