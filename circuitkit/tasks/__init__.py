"""Tasks: where prompts come from, one file per task.

Read `base` first (the interface), then `drawn` for prompts from word lists (`gendered_pronoun` is a short example; the
older `ioi` draws its own), or `prompt_file` for prompts from a file (`file_rows` and `file_answers` read it,
`file_check` finds every problem).
`text` turns text into token ids for all tasks.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
