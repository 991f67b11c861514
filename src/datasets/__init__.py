"""Data sets by name: `factory` reads one through the module of its family and cuts it into splits."""
