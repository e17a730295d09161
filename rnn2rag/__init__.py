"""From RNN to RAG: what the notebooks of the course share.

``import rnn2rag`` is cheap (no torch); each room is imported when it is first used:
``rnn2rag.runtime()``, ``rnn2rag.models.load(...)``, ``rnn2rag.data.load(...)``, ``rnn2rag.show.figure(...)``.
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

_ROOMS = ("catalog", "checks", "data", "machine", "models", "quiz", "show", "train")
__all__ = ["UserError", "__version__", "runtime", *_ROOMS]


def __getattr__(name: str) -> Any:
    """Import a room, `runtime` or `UserError` when it is first used (PEP 562)."""
    if name in _ROOMS:
        return importlib.import_module(f"rnn2rag.{name}")
    if name == "runtime":
        return importlib.import_module("rnn2rag.machine").runtime
    if name == "UserError":
        return importlib.import_module("rnn2rag.errors").UserError
    raise AttributeError(f"module 'rnn2rag' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
