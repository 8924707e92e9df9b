"""Image-text data made by a language model behind an OpenAI-compatible endpoint: translations and dialogues.

Start with ``translate.py`` for the rounds of a run, ``ask/ledger.py`` for why nothing is paid for twice, and
``checks/any_pair.py`` for how an answer is judged. The forge imports ``core`` and no other room.
"""
