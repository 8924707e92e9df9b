"""Measure how good a model is: ask it, score the files it leaves, judge dialogues, report.

Start with ``run.py``: it asks through ``ask.py`` and takes every number from ``score``.
It may import ``core``, ``scenes``, ``data``, ``forge``, ``model`` and ``infer``.
"""
