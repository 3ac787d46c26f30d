"""How long a click takes in the last layer: `python tests/benchmarks/bench_last_layer.py`; evidence is made up."""

from __future__ import annotations

import time

import numpy as np

from historymap_lib.last_layer import BY_NETWORK, Evidence, fit_last_layer

CLICKS = 300


def run(count: int) -> dict[str, float]:
    """Return the seconds that fitting, one update with all its probabilities, and the next ten to ask take."""
    rng = np.random.default_rng(0)

    def some(number: int, middle: np.ndarray | float) -> Evidence:
        table = rng.normal(size=(number, 22))
        table[:, 0] += middle
        return Evidence(table, rng.normal(size=(number, 192)), rng.random((number, 2)), rng.integers(0, 3, number))

    stood = rng.random(count) < 0.7
    groups = some(count, np.where(stood, 4.0, 0.0)), some(min(count, 8000), 0.0), some(min(count, 8000), 0.5)
    seconds = {}
    start = time.perf_counter()
    layer = fit_last_layer(*groups, trust=BY_NETWORK)
    _ = layer.probability
    seconds["fit"] = time.perf_counter() - start
    said = np.full(count, np.nan)
    asked = rng.permutation(count)[:CLICKS]
    said[asked] = stood[asked]
    start = time.perf_counter()
    after = layer.update(said)
    _ = after.probability, after.low, after.high, after.share
    seconds["update"] = time.perf_counter() - start
    start = time.perf_counter()
    after.teaching_order(10)
    seconds["ten to ask"] = time.perf_counter() - start
    return seconds


if __name__ == "__main__":
    for number in (2_000, 10_000, 100_000):
        print(f"{number:,}: " + ", ".join(f"{name} {value:.3f} s" for name, value in run(number).items()))
