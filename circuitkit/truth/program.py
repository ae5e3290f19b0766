"""The base class of programs."""

from abc import abstractmethod
from collections.abc import Sequence
from typing import ClassVar

from circuitkit.config.checks import check_seed
from circuitkit.errors import UsageError
from circuitkit.models.circuit_model import CircuitModel
from circuitkit.torch_state import usual_torch_state
from circuitkit.truth.compiler import compile_steps, measure
from circuitkit.truth.gpt2_llama import MAKERS, FamilyName
from circuitkit.truth.known_circuit import ABLATIONS, AblationName, KnownCircuit
from circuitkit.truth.placement import Use, place, uses
from circuitkit.truth.steps import Output, Step
from circuitkit.truth.task import ProgramTask, PromptMaker, make_tokenizer, vocabulary


class Program(PromptMaker):
    """Steps of heads and MLPs that compute a task, from which `build` makes a model.

    Attributes:
        name: in `PROGRAMS`.
        suits: the ablation under which the task shows the circuit best.
    """

    name: ClassVar[str]
    suits: ClassVar[AblationName] = "resample"

    @abstractmethod
    def steps(self) -> Sequence[Step]:
        """Return the steps, in an order in which they can be computed."""

    @abstractmethod
    def outputs(self) -> Sequence[Output]:
        """Return what the unembedding reads."""

    def copies(self) -> Sequence[Sequence[str]]:
        """Return the names of steps that are copies of each other, any of which is enough; by default none are."""
        return ()

    def without_effect(self, ablation: AblationName) -> set[tuple[str, str]]:
        """Return edges that the program uses and whose removal changes no prompt's value.

        Those that carry the same in every prompt are known already (`Match.fixed`).

        Returns:
            Writer and reader of each, such as `("input", "mover.k")`; by default none.
        """
        return set()

    @usual_torch_state()
    def build(
        self,
        family: FamilyName = "gpt2",
        *,
        seed: int = 0,
        layers: int | None = None,
        heads: int | None = None,
        distractors: int = 0,
        noise: float = 0.0,
    ) -> KnownCircuit:
        """Make a model that computes this program, in memory, in float32.

        Args:
            family: `"gpt2"` (learned positions, LayerNorm, gelu) or `"llama"` (rotary positions, RMSNorm, gated SiLU).
            seed: of which heads and MLPs compute the steps, the directions in the stream, and everything random.
            layers: by default as many as the program needs; of more, those with steps are chosen by the seed.
            heads: per layer; by default 4.
            distractors: the number of other heads and MLPs that read the whole stream and write to a part of it that
                the program does not read; all of them if there are fewer.
            noise: the size of the random part of every matrix, embeddings included. With 0.005 or less, programs still
                compute what they should, and the same edges matter.

        Raises:
            UsageError: an argument is out of its range, or the program does not fit into the model.
        """
        if family not in MAKERS:
            raise UsageError(f"There is no family {family!r}.", f"Choose {' or '.join(map(repr, MAKERS))}.")
        if type(distractors) is not int or distractors < 0:
            raise UsageError(f"distractors={distractors!r} is not a number of heads and MLPs.", "Give 0 or more.")
        if isinstance(noise, bool) or not isinstance(noise, int | float) or not 0 <= noise < 1:
            raise UsageError(f"noise={noise!r} is not between 0 and 1.", "Give a small number such as 0.005.")
        check_seed(seed)
        steps, outputs, words = self.steps(), self.outputs(), vocabulary(self)
        placement = place(steps, layers, heads, seed)
        maker = MAKERS[family]
        shape = measure(steps, words, self.length, placement, maker.learned_positions)
        weights = compile_steps(steps, outputs, shape, words, distractors, seed)
        model = maker(shape, weights, words, float(noise), seed).make()
        model.config.name_or_path = f"{self.name}-{family}"
        return KnownCircuit(
            model=CircuitModel.from_model(model, make_tokenizer(self)),
            task=ProgramTask(f"{type(self).__module__}.{type(self).__qualname__}"),
            program=self.name,
            suits=self.suits,
            circuits={ablation: self._circuits(ablation, uses(steps, outputs, placement)) for ablation in ABLATIONS},
        )

    def _circuits(self, ablation: AblationName, used: Sequence[Use]) -> list[list[str]]:
        """Return the names of the edges that matter: of all of them, then of each circuit that is enough."""
        left_out = self.without_effect(ablation)
        found = [
            use
            for use in used
            if (use.varies or ablation == "zero") and (use.writer, _reader_name(use)) not in left_out
        ]
        circuits = [[use.edge for use in found]]
        for group in self.copies():
            for copy in group:
                others = set(group) - {copy}
                circuits.append([use.edge for use in found if not {use.writer, use.reader} & others])
        return circuits


def _reader_name(use: Use) -> str:
    return use.reader if use.kind in ("logits", "mlp") else f"{use.reader}.{use.kind}"
