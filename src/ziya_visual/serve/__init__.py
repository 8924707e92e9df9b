"""Use a checkpoint: an OpenAI-compatible server, a web page, a terminal chat and picture search.

Start with ``api``, the application, and ``server``, which runs it. May import every layer below ``serve``; of
``eval``, only the judgment files that votes are written to.
"""
