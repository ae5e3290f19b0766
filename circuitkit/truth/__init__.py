"""Models whose circuit is known: programs of attention and MLP steps, compiled to the weights of ordinary models.

Read `steps` first (what a program is made of), then `program` (the interface) and `copying` for examples. `placement`
puts steps into layers and heads, `compiler` makes weights in the coordinates of the program, `gpt2_llama` the
transformers models, and `confirmation` checks the known circuit by exact ablation of every edge.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
