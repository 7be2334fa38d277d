"""Writes golden.json: population stability indices by numpy, straight from the definition.

Run once by hand, where numpy is installed:

    python golden.py > golden.json
"""

import json
import sys

import numpy as np

rng = np.random.default_rng(20)
cases = []
for bins in (2, 3, 12, 40):
    for rows in (50, 1000, 100_000):
        expected = rng.multinomial(rows, rng.dirichlet(np.ones(bins)))
        observed = rng.multinomial(rows // 2, rng.dirichlet(np.ones(bins)))
        e, o = (np.maximum(counts / counts.sum(), 1e-4) for counts in (expected, observed))
        cases.append({"expected": expected.tolist(), "observed": observed.tolist(), "psi": float(((o - e) * np.log(o / e)).sum())})
json.dump(cases, sys.stdout, indent=1)
