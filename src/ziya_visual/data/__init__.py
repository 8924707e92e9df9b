"""Datasets: published formats, our own files, and what becomes of records before the model sees them.

Start with ``dataset.py``, which reads and writes datasets, then ``formats/`` and ``packing.py``. It may
import ``core`` only.
"""
