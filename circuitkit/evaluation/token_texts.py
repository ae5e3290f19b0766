"""Single tokens as text, for people."""

import re
from collections.abc import Callable
from functools import cache

from transformers import PreTrainedTokenizerBase
from transformers.convert_slow_tokenizer import bytes_to_unicode

_NO_CHARACTER = "\ufffd"
_WORD_START = "▁"  # of SentencePiece, whose decoder drops the first space of a text
_BYTE = re.compile("<0x[0-9A-F]{2}>")
_BYTE_OF = {character: byte for byte, character in bytes_to_unicode().items()}


def token_texts(tokenizer: PreTrainedTokenizerBase | None) -> Callable[[int], str]:
    """Return a function that turns one token id into text.

    A leading space belongs to the text. A token that is a part of a character is shown as its bytes, `<0xF0><0x9F>`.
    What has no text is shown as its number: `[50277]`, or `50277` without a tokenizer.
    """
    return str if tokenizer is None else cache(lambda token: _text(tokenizer, token))


def _text(tokenizer: PreTrainedTokenizerBase, token: int) -> str:
    raw = tokenizer.convert_ids_to_tokens(token)
    if not isinstance(raw, str) or not raw:  # models often have more rows than their tokenizer has tokens
        return f"[{token}]"
    text = str(tokenizer.decode([token], skip_special_tokens=False, clean_up_tokenization_spaces=False))
    spaced = raw.replace(_WORD_START, " ")
    if not text or (raw.startswith(_WORD_START) and not text.startswith(" ")):
        return spaced
    if _NO_CHARACTER not in text or _NO_CHARACTER in raw:
        return text
    if _BYTE.fullmatch(raw) or any(character not in _BYTE_OF for character in raw):
        return raw
    found = (_BYTE_OF[character] for character in raw)
    return "".join(chr(byte) if 32 <= byte < 127 else f"<0x{byte:02X}>" for byte in found)
