"""How parameters move: optimizers (fused), learning-rate schedules, averaging, and the factory that reads a config."""
