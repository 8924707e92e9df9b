"""Ziya-Visual: make and use bilingual vision-language models."""

__version__ = "0.1.0"
