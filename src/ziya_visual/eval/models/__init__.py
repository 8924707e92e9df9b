"""Models that an evaluation can ask: our checkpoints, stock image-text models and endpoints.

Start with ``open_model`` in ``open.py``; ``answer_cache.py`` keeps what a model has answered.
It may import ``core``, ``forge/ask``, ``model`` and ``infer``.
"""
