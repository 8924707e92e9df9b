"""The ``data`` commands: import, check, inspect, count and split a dataset.

Each module implements one command as a function that ``cli/data.py`` calls. Start with ``importing.py``; all
that write a dataset share ``manifest.py``. It may import ``core`` and the rest of ``data``.
"""
