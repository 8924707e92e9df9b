"""How a checkpoint is used: an OpenAI-compatible server, a web page, a terminal."""
