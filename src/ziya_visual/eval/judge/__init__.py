"""LLM-judged evaluation of answers: asking a judge, reading its scores, checking its bias, ranking models.

Start with ``judge`` in ``run.py``, then ``leaderboard.py``; ``judgments.py`` holds the row format that both
share. This package may import ``core``, ``scenes``, ``forge`` and the other parts of ``eval``.
"""
