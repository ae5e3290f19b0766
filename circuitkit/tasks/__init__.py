"""Tasks: where prompts come from, one file per task.

Read `base` first (the interface), then `ioi` for prompts from templates or `prompt_file` for prompts from a file
(`file_rows` reads it). `text` turns text into token ids for all tasks.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
