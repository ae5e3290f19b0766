"""Circuit discovery in language models, in the style of PyTorch Lightning."""

import lazy_loader

# Names (listed in `__init__.pyi`) are imported on first use: importing torch and transformers takes seconds
__getattr__, _, __all__ = lazy_loader.attach_stub(__name__, __file__)
__all__ += ["__version__"]
__version__ = "0.1.0"


def __dir__() -> list[str]:
    return list(__all__)
