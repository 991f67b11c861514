"""The page about batches: a document of plain values, built from results, that a browser shows.

src/analysis and the commands may import it. Begin with `document.py`.
"""
