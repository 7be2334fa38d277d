"""The course of a training: epochs, best epoch, early stopping. internal/training is the same in Go."""

import time

from . import learning


class Trainer:
    """What carries out the steps of a training; states are opaque here.

    load(): [(epoch, metrics)] that exist already, without epoch 0.
    fit(epoch, shard): (state, rows, metrics), or None when the shard has no rows.
    merge(states, rows): one state.
    score(state, shard): sums over the shard's part of the validation split, or None when it has none.
    record(epoch, state, metrics): stores the epoch; returns its metrics.
    """


def train(trainer, epochs, patience, shards, clock=time.monotonic):
    """Runs what is left of a training; returns ([(epoch, metrics)], best epoch)."""
    curve = trainer.load()
    best, stop = choose(curve, patience)
    while len(curve) < epochs and not stop:
        epoch, started = len(curve) + 1, clock()
        parts = [part for part in (trainer.fit(epoch, shard) for shard in range(shards)) if part is not None]
        if not parts:
            raise ValueError("the dataset has no packs of the train split")
        metrics = {"shards": [part[2] for part in parts], "seconds": round(clock() - started, 6)}
        state = trainer.merge([part[0] for part in parts], [part[1] for part in parts])
        scores = [sums for sums in (trainer.score(state, shard) for shard in range(shards)) if sums is not None]
        metrics["validation"] = total(scores) if scores else None
        curve.append((epoch, trainer.record(epoch, state, metrics)))
        best, stop = choose(curve, patience)
    return curve, best


def loss(metrics):
    """What epochs are compared by: validation loss per row, or train loss without a validation split."""
    sums = metrics.get("validation") or total(metrics["shards"])
    return sums["loss"] / sums["rows"] if sums["rows"] else 0.0


def total(parts):
    """The sums over shards, in the order given: floats add up to the same bits everywhere."""
    return {name: sum(part[name] for part in parts) for name in ("rows", "loss", "correct")}


def choose(curve, patience):
    """(best epoch or 0, whether to stop): the lowest loss, the earliest of equals."""
    best, lowest = 0, 0.0
    for epoch, metrics in curve:
        if best == 0 or loss(metrics) < lowest:
            best, lowest = epoch, loss(metrics)
    return best, patience > 0 and bool(curve) and curve[-1][0] - best >= patience


def summary(data, epoch, metrics):
    """An epoch for people: means instead of sums. data is spec["input"]."""
    out = {"epoch": epoch, **means("train", data, total(metrics["shards"]))}
    if metrics.get("validation"):
        out.update(means("validation", data, metrics["validation"]))
    return out


def means(split, data, sums):
    """Loss of a row, and the share of right ones unless it is a regression, by names that begin with the split's."""
    out = {split + "_loss": sums["loss"] / sums["rows"]}
    if not learning.is_regression(data):
        out[split + "_accuracy"] = sums["correct"] / sums["rows"]
    return out
