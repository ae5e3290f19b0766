"""Evaluation of circuits on the prompts of a split: faithfulness by size with intervals, CPR, CMD, a random control.

Read `evaluator` first; `evaluation` defines what it returns, `measures` what is measured of every prompt, and
`intervals` how sure a figure is. `agreement` compares circuits.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
