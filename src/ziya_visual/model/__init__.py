"""The network: stock modules of transformers, the packed forward pass that they lack, and checkpoint folders.

Start with ``network.py``, then ``checkpoint.py``; ``packed`` runs the language model, ``build`` makes new
checkpoints and ``publish`` exports them. May import ``core``, ``scenes`` and ``data``, and nothing of
``forge``.
"""
