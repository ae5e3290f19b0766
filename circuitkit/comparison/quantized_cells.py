"""Imports bitsandbytes once, for all cells that quantize on a CPU: without its warning of a kernel that is optional."""

import logging

logging.getLogger("bitsandbytes").setLevel(logging.ERROR)

import bitsandbytes  # noqa: E402, F401  after its logger is silent
