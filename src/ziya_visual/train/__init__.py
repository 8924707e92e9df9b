"""Training: the stages of a recipe, and the pre-trained parts of the miniature.

Start reading at ``loop.py``, one training step from top to bottom; ``run.py`` builds what it needs and is the
only module that sees a recipe. It may import ``core``, ``data``, ``scenes``, ``model`` and ``infer``.
"""
