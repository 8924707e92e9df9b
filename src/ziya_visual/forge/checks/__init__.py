"""Checks that judge a translation without a model, one module per kind.

Start with ``any_pair.py``, whose ``check`` calls all others and returns the reasons against a translation.
This package imports ``core`` and nothing else of the forge.
"""
