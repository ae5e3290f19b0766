from .base import Family as Family
from .gemma import Gemma as Gemma
from .gpt2 import GPT2 as GPT2
from .gpt_neox import GPTNeoX as GPTNeoX
from .llama import Llama as Llama
from .opt import OPT as OPT
from .phi import Phi as Phi
from .phi3 import Phi3 as Phi3
