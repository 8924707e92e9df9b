"""Export of checkpoints as stock folders, proven by their logits and described by a model card.

Start with ``export.py``. May import ``core``, ``data``, ``scenes`` and the rest of ``model``.
"""
