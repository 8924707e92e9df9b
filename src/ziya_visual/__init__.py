"""Ziya-Visual: make and use bilingual vision-language models.

``from ziya_visual import ZiyaVisual`` gives the class that opens a checkpoint; only this imports torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from ziya_visual.infer.engine import ZiyaVisual

__all__ = ["ZiyaVisual", "__version__"]


def __getattr__(name: str) -> Any:
    if name == "ZiyaVisual":
        from ziya_visual.infer.engine import ZiyaVisual

        return ZiyaVisual
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
