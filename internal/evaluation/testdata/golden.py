"""Writes golden.json: what scikit-learn, SciPy and statsmodels compute for small fixed inputs.

Run once by hand, where numpy, scikit-learn 1.5, scipy and statsmodels are installed:

    python golden.py > golden.json
"""

import json
import sys

import numpy as np
import scipy.stats
import sklearn
import sklearn.metrics as skm
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.proportion import proportion_confint

EPS = float(np.finfo(np.float32).eps)


def ece(labels, p, bins=15):
    """Expected calibration error over bins (lo, hi], straight from its definition."""
    confidence, right = p.max(axis=1), p.argmax(axis=1) == labels
    total = 0.0
    edges = np.linspace(0, 1, bins + 1)
    for lo, hi in zip(edges[:-1], edges[1:]):
        inside = (confidence > lo) & (confidence <= hi)
        if inside.any():
            total += inside.mean() * abs(right[inside].mean() - confidence[inside].mean())
    return total


def classification(name, rng, rows, classes, sharpness, absent=()):
    labels = rng.choice([c for c in range(classes) if c not in absent], size=rows)
    logits = rng.normal(size=(rows, classes))
    logits[np.arange(rows), labels] += 1.5
    logits *= sharpness
    for c in absent:
        logits[:, c] -= 60
    e = np.exp(logits - logits.max(axis=1, keepdims=True))
    p = (e / e.sum(axis=1, keepdims=True)).astype("<f4")
    predicted = p.argmax(axis=1)
    every = list(range(classes))
    precision, recall, f1, support = skm.precision_recall_fscore_support(
        labels, predicted, labels=every, zero_division=0
    )
    clipped = np.clip(p.astype("f8"), EPS, 1 - EPS)
    low, high = proportion_confint((labels == predicted).sum(), rows, method="wilson")
    return {
        "name": name,
        "classes": classes,
        "labels": labels.tolist(),
        "predictions": [[float(v) for v in row] for row in p],
        "accuracy": skm.accuracy_score(labels, predicted),
        "accuracy_low": low,
        "accuracy_high": high,
        "macro_f1": skm.f1_score(labels, predicted, average="macro", zero_division=0),
        "log_loss": float(-np.log(clipped[np.arange(rows), labels]).mean()),
        "log_loss_sklearn": skm.log_loss(labels, p, labels=every),
        "ece": float(ece(labels, p.astype("f8"))),
        "precision": precision.tolist(),
        "recall": recall.tolist(),
        "f1": f1.tolist(),
        "support": support.tolist(),
        "confusion": skm.confusion_matrix(labels, predicted, labels=every).tolist(),
    }


def regression(rng, rows):
    actual = rng.normal(10, 3, size=rows).astype("<f4")
    good = (actual + rng.normal(0, 1, size=rows)).astype("<f4")
    poor = (actual + rng.normal(0, 1.3, size=rows)).astype("<f4")

    def scores(estimate):
        a, e = actual.astype("f8"), estimate.astype("f8")
        return {
            "predictions": estimate.tolist(),
            "rmse": float(np.sqrt(skm.mean_squared_error(a, e))),
            "mae": skm.mean_absolute_error(a, e),
            "r2": skm.r2_score(a, e),
        }

    a = actual.astype("f8")
    d = (poor.astype("f8") - a) ** 2 - (good.astype("f8") - a) ** 2
    z = d.mean() / (d.std(ddof=1) / np.sqrt(rows))
    return {
        "actual": actual.tolist(),
        "candidate": scores(good),
        "champion": scores(poor),
        "p": float(2 * scipy.stats.norm.sf(abs(z))),
    }


def paired(b, c, n):
    low_high = None
    p, q = (b + 1) / (n + 2), (c + 1) / (n + 2)  # Bonett and Price 2012
    half = scipy.stats.norm.ppf(0.975) * np.sqrt((p + q - (p - q) ** 2) / (n + 2))
    low_high = [max(p - q - half, -1), min(p - q + half, 1)]
    k = min(b, c)
    mid = 1.0
    if b + c:
        mid = 2 * (scipy.stats.binom.cdf(k, b + c, 0.5) - 0.5 * scipy.stats.binom.pmf(k, b + c, 0.5))
    return {
        "only_candidate": b,
        "only_champion": c,
        "rows": n,
        "exact_p": float(mcnemar([[n - b - c, c], [b, 0]], exact=True).pvalue) if b + c else 1.0,
        "mid_p": float(min(mid, 1.0)),
        "low": low_high[0],
        "high": low_high[1],
    }


def main():
    rng = np.random.default_rng(20240501)
    json.dump(
        {
            "generated_by": f"golden.py, scikit-learn {sklearn.__version__}, scipy {scipy.__version__}",
            "classification": [
                classification("two classes", rng, 41, 2, 1.0),
                classification("five classes", rng, 90, 5, 1.5),
                classification("probabilities beyond the clip", rng, 60, 3, 20.0),
                classification("a class that never occurs", rng, 50, 4, 1.0, absent=(2,)),
            ],
            "regression": regression(rng, 70),
            "paired": [
                paired(b, c, n)
                for b, c, n in [
                    (0, 0, 270), (3, 2, 270), (10, 1, 270), (1, 10, 270), (5, 5, 12),
                    (121, 59, 1000), (0, 7, 7), (5000, 5200, 100000),
                ]
            ],
        },
        sys.stdout,
        separators=(",", ":"),
    )


if __name__ == "__main__":
    main()
