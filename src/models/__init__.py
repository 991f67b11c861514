"""Models by name: `factory` builds a model through the module of its family."""
