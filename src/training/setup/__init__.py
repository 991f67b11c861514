"""Before the first step: facts, lengths, seeds, memory checks and placement on the device. Begin with `facts.py`."""
