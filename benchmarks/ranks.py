"""How often settings without any difference get more than one rank: simulated error rates of tables.ranking.

`python -m benchmarks.ranks` prints the table of docs/statistics.md.
"""
from __future__ import annotations

import numpy as np

from src.analysis.tables.inference import ranks

SIMULATIONS = 4000
CASES = ((3, 3), (10, 2), (10, 3), (10, 5), (30, 3))  # settings, seeds of each


def error_rates(settings: int, seeds: int, spread: float, simulations: int, distribution: str = "normal",
                effect: float = 0.0) -> float:
    """Return the share of simulations in which settings get more than one rank.

    spread: standard deviation of the noisiest setting / that of the least noisy one;
    distribution: of the noise: normal, or skewed (exponential, a long tail of bad runs);
    effect: difference of the best setting to all others, in standard deviations; 0: all are equal, and the share is the
        error rate.
    """
    random = np.random.default_rng(0)
    scale = np.geomspace(1, spread, settings)[:, None]
    several = 0
    for _ in range(simulations):
        noise = random.normal(size=(settings, seeds)) if distribution == "normal" else (
            1 - random.exponential(size=(settings, seeds)))
        values = noise * scale
        values[0] += effect
        order = np.argsort(-values.mean(1), kind="stable")
        values = values[order]
        several += ranks(values.mean(1), values.std(1, ddof=1), np.full(settings, seeds)).max() > 1
    return several / simulations


def main() -> None:
    """Print a table of error rates, and one of the chance to tell the best setting from the others."""
    print("| settings x seeds | equal noise | noise 1 to 10 | skewed noise | skewed, 1 to 10 | power at 3 s | "
          "at 10 s |")
    print("|---|---|---|---|---|---|---|")
    for settings, seeds in CASES:
        rates = [error_rates(settings, seeds, spread, SIMULATIONS, distribution)
                 for distribution in ("normal", "skewed") for spread in (1.0, 10.0)]
        power = [error_rates(settings, seeds, 1.0, SIMULATIONS // 4, effect=effect) for effect in (3.0, 10.0)]
        print(f"| {settings} x {seeds} | " + " | ".join(f"{100 * rate:.1f} %" for rate in [*rates, *power]) + " |",
              flush=True)


if __name__ == "__main__":
    main()
