"""How inputs are distributed: what is looked at of an example, and the bins of a model's profile.

The training database makes the profile, the inference database sorts its calls into the same bins: by this very code.
"""

import math

import numpy

BINS = 10  # of as many examples each; two more catch what lies below and above all that was seen
FEATURES = 512  # values of an example that are looked at one by one; of more, as of a picture, mean and deviation


def features(data):
    """Names of what is looked at of an example of this input (shape, dtype, and columns if they have names)."""
    shape, columns = data["shape"], data.get("columns") or []
    if one_by_one(shape):
        return list(columns) or ["value %d" % number for number in range(1, shape[0] + 1)]
    count = channels(shape)[0]
    of = [""] if count == 1 else [" of channel %d" % number for number in range(1, count + 1)]
    return [what + channel for what in ("mean", "deviation") for channel in of]


def one_by_one(shape):
    """Whether each value of an example is looked at: rows of a table, but not pictures."""
    return len(shape) == 1 and shape[0] <= FEATURES


def channels(shape):
    """(number of channels, their axis in an example or None)."""
    if len(shape) == 3 and shape[0] in (1, 3):
        return shape[0], 0
    if len(shape) == 3 and shape[2] in (1, 3):
        return shape[2], 2
    return 1, None


def summaries(packed, n, data):
    """float32 [n, features] of the bytes of n examples; an example's are the same in whatever company it comes."""
    shape = data["shape"]
    x = numpy.frombuffer(packed, numpy.dtype(data["dtype"]).newbyteorder("<")).reshape([n] + list(shape))
    if one_by_one(shape):
        return x.astype(numpy.float32)
    count, axis = channels(shape)
    if axis == 2:
        x = x.transpose(0, 3, 1, 2)
    values = numpy.ascontiguousarray(x, dtype=numpy.float64).reshape(n, count, math.prod(shape) // count)
    return numpy.concatenate([values.mean(axis=2), values.std(axis=2)], axis=1).astype(numpy.float32)


def profile(parts, data):
    """The features' bins of these summaries (bytes of float32 [n, features]) and how many examples are in each.

    A value is in the bin whose number is that of the edges that are not above it.
    """
    names = features(data)
    seen = numpy.concatenate([numpy.frombuffer(part, "<f4").reshape(-1, len(names)) for part in parts])
    found = []
    for name, column in zip(names, seen.T):
        inner = numpy.quantile(column, [number / BINS for number in range(1, BINS)], method="inverted_cdf")
        edges = numpy.unique(numpy.concatenate([[column.min()], inner, [numpy.nextafter(column.max(), numpy.float32(math.inf))]]).astype(numpy.float32))
        counts = numpy.bincount(numpy.searchsorted(edges, column, side="right"), minlength=len(edges) + 1)
        found.append({"name": name, "edges": edges.tolist(), "counts": counts.tolist()})
    return {"rows": len(seen), "features": found}


class Bins:
    """Sorts examples into the bins of a profile."""

    def __init__(self, profile, data):
        self.data = data
        lists = [feature["edges"] for feature in profile["features"]]
        self.edges = numpy.full([len(lists), max(map(len, lists), default=0)], math.inf, numpy.float32)
        for row, edges in zip(self.edges, lists):
            row[: len(edges)] = edges

    def of(self, packed, n):
        """For each of n examples a list of the bins of its features."""
        return (summaries(packed, n, self.data)[:, :, None] >= self.edges).sum(axis=2).tolist()
