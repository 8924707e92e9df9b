"""The packed forward pass: texts that share an image run as branches behind one prefix.

Start with ``forward.py``; ``data/packing.py`` draws the attention mask of an example. May import ``core``,
``data`` and nothing else of ``model``.
"""
