"""What the tests of tasks share."""

import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from circuitkit.models.fetch import TOY


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerBase:
    """The toy model's."""
    return AutoTokenizer.from_pretrained(TOY)
