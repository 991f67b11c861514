"""Models by name: `factory` builds one through the module of its family, written from its paper."""
