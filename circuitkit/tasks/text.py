"""From text to token ids, for all tasks: prompts, answers, and what a user should know about a text."""

import re
from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

from circuitkit.errors import UsageError

_SHOWN = 5


def encode(tokenizer: PreTrainedTokenizerBase, prompts: Sequence[str]) -> list[list[int]]:
    """Tokenize prompts for an answer to continue them.

    Special tokens that the tokenizer puts in front (BOS) stay; those that it appends (EOS, SEP) are dropped.

    Raises:
        UsageError: the tokenizer does more than to add special tokens.
    """
    with_special, plain = (
        tokenizer(list(prompts), add_special_tokens=special)["input_ids"] for special in (True, False)
    )
    found = []
    for text, ids, own in zip(prompts, with_special, plain, strict=True):
        ends = [end for end in range(len(ids), len(own) - 1, -1) if ids[end - len(own) : end] == own]
        if not ends:
            raise UsageError(
                f"This tokenizer reads {text[:80]!r} differently with special tokens than without.",
                "Give token ids: PromptBatch.from_ids(...).",
            )
        found.append(ids[: ends[0]] if own else [])
    return found


def continuation(tokenizer: PreTrainedTokenizerBase, text: str, prompt: str = "to") -> int | None:
    """Return the token with which `text` continues `prompt`; None if it is not exactly one known token."""
    tokens = continuation_tokens(tokenizer, text, prompt)
    return tokens[0] if len(tokens) == 1 else None


def continuation_tokens(tokenizer: PreTrainedTokenizerBase, text: str, prompt: str = "to") -> list[int]:
    """Return the tokens with which `text` continues `prompt`; empty if one is unknown, or the prompt's own change."""
    before = tokenizer.encode(prompt, add_special_tokens=False)
    both = tokenizer.encode(prompt + text, add_special_tokens=False)
    added = both[len(before) :]
    if both[: len(before)] != before or tokenizer.unk_token_id in added:
        return []
    return list(map(int, added))


def describe(tokenizer: PreTrainedTokenizerBase, prompts: Sequence[str]) -> list[str]:
    """Describe what makes prompts mean something else to the model than to a reader, as notes.

    Returns:
        A note if the tokenizer does not know some words, and one if prompts end in a space.
    """
    notes = []
    unknown = [words for text in prompts if (words := _unknown_words(tokenizer, text))]
    if unknown:
        words = list(dict.fromkeys(word for found in unknown for word in found))
        more = f" and {len(words) - _SHOWN} more" if len(words) > _SHOWN else ""
        notes.append(
            f"This tokenizer does not know {', '.join(map(repr, words[:_SHOWN]))}{more} "
            f"(in {len(unknown)} of {len(prompts)} prompts): the model sees {tokenizer.unk_token} instead."
        )
    if spaces := sum(text.endswith((" ", "\t")) for text in prompts):
        notes.append(
            f"Prompts that end in a space: {spaces} of {len(prompts)}. "
            "A word's own token begins with its space, so the model expects something else there: remove the space."
        )
    return notes


def _unknown_words(tokenizer: PreTrainedTokenizerBase, text: str) -> list[str]:
    """Return the words that have the unknown token, except where the text itself spells it."""
    unknown, text = tokenizer.unk_token_id, text.rstrip()  # a space at the end has a note of its own
    if unknown is None or unknown not in tokenizer.encode(text, add_special_tokens=False):
        return []
    pieces = [piece for piece in re.findall(r"\s*\S+", text) if str(tokenizer.unk_token) not in piece]
    found = [piece.strip() for piece in pieces if unknown in tokenizer.encode(piece, add_special_tokens=False)]
    return found or ([text[:40]] if str(tokenizer.unk_token) not in text else [])
