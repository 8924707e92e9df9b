"""New checkpoint folders from parts: a bridge, a language model, and weights on disk read tensor by tensor.

Start with ``init.py``, the command of that name; ``compose.py`` joins parts in memory. May import ``core``,
``data`` and the modules directly in ``model``.
"""
