"""Preparation of the first step: facts, length, seeds, memory checks, moving data to the device.

All of src/training may import it. Begin with `facts.py`.
"""
