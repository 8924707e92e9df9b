"""``report.html``: a self-contained page of results, learning curves and sample answers.

Start with ``write_report`` in ``page.py``; ``published.yaml`` holds published numbers. This
package imports only ``core`` and ``eval/results``, and takes the rows of ``results.json`` unchanged.
"""
