"""Adaptive search: the next trial, or the next promotion, decided from files, exactly once.

`submission`, `analysis` and `commands` may import it; it imports only the common modules of `src`, and the libraries of
its samplers when a decision needs one. Begin with `decide.py`, then `ledger.py`.
"""
