#!/usr/bin/env python3
"""Fit a straight line with emcee on a pool; needs emcee and numpy.

The data ride in the function. They are sent to the workers once, not with every step.
"""

from __future__ import annotations

import argparse
from typing import Any

import emcee  # type: ignore[import-untyped]
import numpy as np
import schwimmbad_go as schwimmbad


def log_probability(theta: Any, x: Any, y: Any, error: float) -> Any:
    """Gaussian errors, flat prior on slope and intercept; runs in a worker."""
    slope, intercept = theta
    return -0.5 * np.sum(((y - slope * x - intercept) / error) ** 2)


def main(pool: Any, steps: int) -> None:
    random = np.random.default_rng(42)
    x = np.sort(random.uniform(0, 10, 50_000))
    y = 2.5 * x - 1.0 + random.normal(0, 1.0, x.size)
    start = np.array([2.5, -1.0]) + 1e-2 * random.normal(size=(16, 2))
    sampler = emcee.EnsembleSampler(16, 2, log_probability, args=(x, y, 1.0), pool=pool)
    sampler.random_state = np.random.RandomState(1).get_state()
    sampler.run_mcmc(start, steps)
    slope, intercept = sampler.get_chain(discard=steps // 2, flat=True).mean(axis=0)
    print(f"{type(pool).__name__}: slope {slope:.3f}, intercept {intercept:.3f} after {steps} steps")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Fit a line with emcee over a pool.")
    parser.add_argument("--ncores", dest="n_cores", default=2, type=int, help="number of processes")
    parser.add_argument("--steps", default=200, type=int)
    args = parser.parse_args()
    with schwimmbad.choose_pool(processes=args.n_cores) as chosen:
        main(chosen, args.steps)
