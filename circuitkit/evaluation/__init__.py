"""Evaluation of circuits on held-out prompts: faithfulness by size, CPR, CMD, and a random control.

Read `evaluator` first; `measures` defines what it returns.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
