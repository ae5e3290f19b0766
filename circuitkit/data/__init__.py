"""Batches of clean and corrupted prompts, the logits at their answer positions, objectives, and accuracy.

Read `prompt_batch` first, then `objectives` (one value per prompt; lower is better).
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
