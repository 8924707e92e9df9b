"""The command line, ``ziya-visual``: every command parses its arguments and calls one function.

Start with ``app.py``, which lists the commands and turns errors into one line. This package may import any
other, but imports what a command needs only when it runs, so that ``--help`` stays fast.
"""
