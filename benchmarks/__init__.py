"""Benchmarks: `measure()` of each module returns (label, value, limit), mostly ratios of two timings in one run."""
