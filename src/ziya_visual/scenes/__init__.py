"""The self-drawing world: pictures of coloured shapes, and a small language that describes them.

Start with ``language.py`` for what can be said and ``drawing.py`` for what can be drawn; ``dataset.py`` turns
both into records. This package imports only ``core``.
"""
