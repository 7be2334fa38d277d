"""Export-then-train, the peer of the end-to-end benchmark: reads rows that psql wrote as CSV, trains, evaluates.

The same learner, epochs, batches, validation after each epoch and ONNX export as inside the database, in one process.
"""

import argparse
import json
import sys

from insitu_runtime import boot

boot.tune()

import numpy  # noqa: E402  (after tune, which sets the number of threads)

from insitu_runtime import inmemory, learning, state  # noqa: E402

BATCH = 256


def read(path, kind, width):
    """(x, y) of a CSV file of label and pixels; the quickest ways numpy and Python have."""
    with open(path) as stream:
        if kind == "hex":
            rows = [line.rstrip("\n").split(",", 1) for line in stream]
            y = numpy.array([int(label) for label, _ in rows], numpy.int32)
            return numpy.frombuffer(bytes.fromhex("".join(row[1][2:] for row in rows)), numpy.uint8).reshape(-1, width), y
        text = stream.read().translate(str.maketrans("\n", ",", '"{}')).rstrip(",")
    table = numpy.fromstring(text, numpy.int32, sep=",").reshape(-1, width + 1)
    return table[:, 1:].astype(numpy.uint8), table[:, 0].copy()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--app", required=True)
    parser.add_argument("--csv", required=True)
    parser.add_argument("--kind", required=True, choices=["array", "hex"])
    parser.add_argument("--spec", required=True)
    parser.add_argument("--split", required=True, help="rows of train and validation; the rest is for test")
    options = parser.parse_args()
    spec = json.loads(options.spec)
    release = inmemory.Release(inmemory.bundle_of(options.app))
    shape = spec["input"]["shape"]
    x, y = read(options.csv, options.kind, int(numpy.prod(shape)))
    order = numpy.random.default_rng(spec["seed"]).permutation(len(x))
    x, y = x[order].reshape([-1, *shape]), y[order]
    train, validation = map(int, options.split.split(","))
    learner = release.learning.new(spec)
    for epoch in range(1, spec["parameters"]["epochs"] + 1):
        release.learning.begin(learner, dict(spec, epoch=epoch, shard=0, shards=1))
        for start in range(0, train, BATCH):
            stop = min(start + BATCH, train)
            release.learning.fit(learner, x[start:stop], y[start:stop])
        score(release, learner, spec, x[train : train + validation], y[train : train + validation])
    state.encode(learner.state())
    model = learner.export()
    correct, rows = score(release, learner, spec, x[train + validation :], y[train + validation :])
    json.dump({"rows": len(x), "test_rows": rows, "accuracy": correct / rows, "onnx_bytes": len(model)}, sys.stdout)


def score(release, learner, spec, x, y):
    correct = 0
    for start in range(0, len(x), BATCH):
        outputs = release.learning.predict(learner, x[start : start + BATCH])
        correct += learning.score(spec["input"], outputs, y[start : start + BATCH])[1]
    return correct, len(x)


if __name__ == "__main__":
    main()
