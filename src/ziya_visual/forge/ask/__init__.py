"""Requests to language models: how they are stored, sent, limited and paid for.

Start with ``client.py``, whose ``ask_all`` sends every request of a ledger that has no answer yet. This
package imports ``core`` and nothing else of the forge.
"""
