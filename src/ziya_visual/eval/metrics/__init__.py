"""Metrics equal to the official evaluators, computed from texts and numbers alone: no model, no torch.

Start with ``caption.py`` or ``vqa.py``, and ``bootstrap.py`` for intervals. These modules
import only ``core``; ``eval/score`` reads the files and calls them.
"""
