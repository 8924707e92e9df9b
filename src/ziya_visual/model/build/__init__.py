"""Builds checkpoint folders out of parts: a bridge, a language model, weights on disk.

Start with ``init.py``. Imports from ``core``, ``data`` and the modules above in ``model``.
"""
