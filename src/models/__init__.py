"""Models by name: `factory` builds a model through the module of its family.

Training and commands import it; its modules import neither data sets nor training. Begin with `factory.py`.
"""
