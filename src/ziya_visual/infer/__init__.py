"""How a model answers: one decoder for evaluation, chat and server."""
