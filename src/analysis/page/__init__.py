"""The page about batches: a document of plain values, built from results, that a browser shows.

src/analysis, src/dashboard and the commands import it; it imports the other folders of src/analysis. Begin with
`document.py`.
"""
