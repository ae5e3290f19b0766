"""Tokenizers made in memory in which the words of all tasks are one token each, as they are in large vocabularies."""

import string
from collections.abc import Iterable

import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers
from tokenizers.processors import TemplateProcessing
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from circuitkit.models.circuit_model import CircuitModel
from circuitkit.tasks import (
    capital,
    copy_mcqa,
    docstring,
    gendered_pronoun,
    greater_than,
    ioi,
    subject_verb_agreement,
    word_lists,
)

_PRONOUNS = ("he", "she")
LISTS = {
    "people": [form for noun in word_lists.PEOPLE for form in (noun, f"{noun}s")],
    "verbs": [form for both in (*subject_verb_agreement.VERBS, *subject_verb_agreement.ANSWERS) for form in both],
    "things": word_lists.THINGS,
    "colors": word_lists.COLORS,
    "letters": copy_mcqa.LETTERS,
    "names": (*ioi.NAMES, *gendered_pronoun.FEMALE, *gendered_pronoun.MALE, *_PRONOUNS),
    "adjectives": (*gendered_pronoun.ADJECTIVES, *gendered_pronoun.NOUNS),
    "ioi": (*ioi.PLACES, *ioi.OBJECTS),
    "docstring": (*docstring.FUNCTIONS, *docstring.ARGUMENTS, *docstring.WORDS),
    "countries": (*capital.CAPITALS, *capital.CAPITALS.values()),
    "events": greater_than.NOUNS,
}
"""The words of the tasks, in groups that can be left out."""
ALL_WORDS = [word for words in LISTS.values() for word in words]
NUMBERS = [*(f" {century}" for century in greater_than.CENTURIES), *(f"{number:02d}" for number in range(100))]
"""The numbers that are one token: centuries, and two digits."""


def byte_level(
    words: Iterable[str] = ALL_WORDS,
    numbers: Iterable[str] = NUMBERS,
    *,
    digits: bool = False,
    begin: bool = False,
) -> PreTrainedTokenizerFast:
    """A byte-level BPE as GPT-2's, whose tokens are bytes, words with a leading space, and numbers.

    Args:
        words: those that are one token.
        numbers: those that are joined first.
        digits: split numbers into digits, as SmolLM2's tokenizer does.
        begin: put a token in front of every prompt.
    """
    pieces = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    vocabulary = {piece: number for number, piece in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    merges: dict[tuple[str, str], None] = {}
    for text in (*([] if digits else numbers), *(f" {word}" for word in words)):
        (piece,) = (found for found, _ in pieces.pre_tokenize_str(text))
        for end in range(1, len(piece)):  # a merge for each of its beginnings
            merges[piece[:end], piece[end]] = None
            vocabulary.setdefault(piece[: end + 1], len(vocabulary))
    backend = Tokenizer(models.BPE(vocabulary, list(merges)))
    split = pre_tokenizers.Digits(individual_digits=True)
    backend.pre_tokenizer = pre_tokenizers.Sequence([split, pieces]) if digits else pieces
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(["<s>", "<pad>"])
    if begin:
        backend.post_processor = TemplateProcessing("<s> $A", special_tokens=[("<s>", backend.token_to_id("<s>"))])
    return PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", pad_token="<pad>")


def without_pieces(words: Iterable[str] = ALL_WORDS) -> PreTrainedTokenizerFast:
    """A BPE as Llama's: spaces are written `▁`, text is not cut before it is merged, digits and signs are tokens."""
    texts = [f"▁{word}" for word in words]
    letters = sorted({*string.printable, "▁", *"".join(texts)} - {" "})
    vocabulary = {piece: number for number, piece in enumerate(["<unk>", *letters])}
    merges: dict[tuple[str, str], None] = {}
    for text in texts:
        for end in range(1, len(text)):
            merges[text[:end], text[end]] = None
            vocabulary.setdefault(text[: end + 1], len(vocabulary))
    backend = Tokenizer(models.BPE(vocabulary, list(merges), unk_token="<unk>"))
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    backend.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    backend.add_special_tokens(["<s>", "<pad>"])
    backend.post_processor = TemplateProcessing("<s> $A", special_tokens=[("<s>", backend.token_to_id("<s>"))])
    return PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", pad_token="<pad>", unk_token="<unk>")


def random_reader(tokenizer: PreTrainedTokenizerFast, seed: int = 0) -> CircuitModel:
    """A tiny random GPT-2 with a tokenizer."""
    torch.manual_seed(seed)
    config = GPT2Config(vocab_size=len(tokenizer), n_embd=12, n_layer=2, n_head=3, n_positions=160)
    return CircuitModel.from_model(GPT2LMHeadModel(config).eval(), tokenizer)
