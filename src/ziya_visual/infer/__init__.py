"""Inference: one batched decoder for chat, evaluation and the server.

Start with :class:`~ziya_visual.infer.engine.ZiyaVisual`, which turns dialogues about images into prompts;
``decoder`` generates tokens, and ``scheduler`` serves many callers at once. May import ``core``, ``data`` and
``model``.
"""
