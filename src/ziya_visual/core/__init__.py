"""The foundations of every other package: records, recipes, files, images, errors, logs and processes.

Start with ``records.py``, which defines what a dataset is made of, and ``recipe.py``, which defines a
training run. This package imports nothing of ours.
"""
