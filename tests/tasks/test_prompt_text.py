"""From text to token ids: special tokens, unknown words, spaces at the end."""

from pathlib import Path
from typing import Any

import pytest
from tokenizers import Regex, Tokenizer, models, pre_tokenizers
from tokenizers.processors import TemplateProcessing
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from circuitkit.errors import UsageError
from circuitkit.models.fetch import TOY
from circuitkit.tasks.ioi import IOI
from circuitkit.tasks.prompt_file import PromptFile
from circuitkit.tasks.text import describe, encode

WORDS = ["<unk>", "<pad>", "<s>", "</s>", "a", "b", " a", " b", "c", " c", " d"]
TEMPLATES = {
    "neither": "$A",
    "in front": "<s> $A",
    "at the end": "$A </s>",
    "both": "<s> $A </s>",
    "twice": "$A </s> <s>",
}


def tiny_tokenizer(template: str) -> PreTrainedTokenizerFast:
    """A tokenizer of words, which adds special tokens as the template says."""
    backend = Tokenizer(models.WordLevel({word: number for number, word in enumerate(WORDS)}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Split(Regex(r" ?\w+"), behavior="isolated")
    backend.post_processor = TemplateProcessing(template, special_tokens=[("<s>", 2), ("</s>", 3)])
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, unk_token="<unk>", pad_token="<pad>", bos_token="<s>", eos_token="</s>"
    )


@pytest.mark.parametrize(("where", "front"), [*zip(TEMPLATES, [[], [2], [], [2], []], strict=True)])
def test_special_tokens_stay_in_front_and_are_dropped_at_the_end(where: str, front: list[int], tmp_path: Path) -> None:
    tokenizer = tiny_tokenizer(TEMPLATES[where])
    assert encode(tokenizer, ["a b", "b"]) == [[*front, 4, 7], [*front, 5]]
    assert encode(tokenizer, ["a</s>"]) == [[*front, 4, 3]], "a token that the text itself has is part of the prompt"
    path = tmp_path / "p.csv"
    path.write_text("clean,corrupted,answer,wrong_answer\na b,a c, a, d\n")
    batch = PromptFile(path).prompts(tokenizer, "train", 1, seed=0)
    assert batch.clean.tolist() == [[*front, 4, 7]]
    assert batch.corrupted.tolist() == [[*front, 4, 9]]
    assert batch.answer_positions.tolist() == [[len(front) + 1]]
    assert batch.answers.tolist() == [[[6]]], "answers have no special tokens"
    assert batch.wrong_answers.tolist() == [[[10]]]


def test_prompts_of_ioi_end_in_the_word_that_the_answer_continues() -> None:
    tokenizer = AutoTokenizer.from_pretrained(TOY)
    plain = IOI().prompts(tokenizer, "train", 8, seed=0)
    backend = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    backend.post_processor = TemplateProcessing("$A <pad>", special_tokens=[("<pad>", tokenizer.pad_token_id)])
    ending = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>", pad_token="<pad>")
    assert ending("to")["input_ids"][-1] == tokenizer.pad_token_id
    batch = IOI().prompts(ending, "train", 8, seed=0)
    assert batch.clean.tolist() == plain.clean.tolist()
    assert batch.answers.tolist() == plain.answers.tolist()


def test_a_tokenizer_that_reads_text_differently_with_special_tokens_is_refused() -> None:
    class Odd(PreTrainedTokenizerFast):
        def __call__(self, texts: list[str], add_special_tokens: bool = True, **options: Any) -> Any:
            ids = super().__call__(texts, add_special_tokens=False, **options)["input_ids"]
            return {"input_ids": [[2, *row[::-1], 3] if add_special_tokens else row for row in ids]}

    tokenizer = Odd(tokenizer_object=tiny_tokenizer("$A").backend_tokenizer, unk_token="<unk>")
    with pytest.raises(UsageError, match="reads 'a b' differently with special tokens"):
        encode(tokenizer, ["a b"])


@pytest.mark.parametrize(
    ("texts", "said"),
    [
        (["a b", "b c"], []),
        (["a <unk> b"], []),  # as the author wrote it
        (["a x b", "a x y"], ["This tokenizer does not know 'x', 'y' (in 2 of 2 prompts)"]),
        (["d a", "a d"], ["does not know 'd' (in 1 of 2 prompts)"]),  # known after a space only
        (["a " + " ".join("efghijkl")], ["'e', 'f', 'g', 'h', 'i' and 3 more"]),
        (["a b ", "a b", "a\t"], ["Prompts that end in a space: 2 of 3"]),
        (["a x "], ["does not know 'x'", "end in a space: 1 of 1"]),
    ],
)
def test_what_a_reader_would_not_see_is_described(texts: list[str], said: list[str]) -> None:
    notes = describe(tiny_tokenizer("<s> $A"), texts)
    assert len(notes) == len(said)
    for note, part in zip(notes, said, strict=True):
        assert part in note


def test_a_beginning_token_that_is_also_the_unknown_one_is_known() -> None:
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=tiny_tokenizer("<s> $A").backend_tokenizer, unk_token="<s>", bos_token="<s>"
    )
    assert not describe(tokenizer, ["a b"])
