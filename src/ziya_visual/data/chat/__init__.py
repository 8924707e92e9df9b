"""The chat format and the processor: dialogues to token ids, images to pixels.

Start with ``chat_format.py``. Checkpoints carry these three files as remote code, so they may import nothing
of ours but each other and ``core.errors``.
"""
