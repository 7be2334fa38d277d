"""Training and scoring over the packs of one shard, pack by pack."""

import math
import time

from . import learning


class Fit:
    """One shard's epoch: step() for every pack, then result() once."""

    def __init__(self, learn, spec, state, clock=time.monotonic):
        self.learn, self.data, self.clock = learn, spec["input"], clock
        self.learner = learn.new(spec, learning.given("the state", state))
        learn.begin(self.learner, spec)
        self.number = spec["shard"]
        self.rows = self.packs = self.correct = 0
        self.loss = 0.0
        self.started = clock()

    def step(self, labels, data):
        x = learning.examples(self.data, data)
        loss, correct = self.learn.fit(self.learner, x, learning.targets(self.data, labels, len(x)))
        self.rows += len(x)
        self.packs += 1
        self.loss += loss
        self.correct += correct

    def result(self):
        """(state bytes, metrics); ends the epoch."""
        loss, correct = self.learn.end(self.learner)
        self.loss += loss
        self.correct += correct
        metrics = {"shard": self.number, "rows": self.rows, "packs": self.packs, "loss": self.loss, "correct": self.correct}
        return self.learn.state(self.learner), dict(metrics, seconds=round(self.clock() - self.started, 6))


class Score:
    """Sums of loss and hits of one state: step() for every pack, then result()."""

    def __init__(self, learn, spec, state):
        self.learn, self.data = learn, spec["input"]
        self.learner = learn.new(spec, learning.given("the state", state))
        self.rows = self.correct = 0
        self.loss = 0.0

    def step(self, labels, data):
        x = learning.examples(self.data, data)
        y = learning.targets(self.data, labels, len(x))
        loss, correct = learning.score(self.data, self.learn.predict(self.learner, x), y)
        if not math.isfinite(loss):
            raise learning.LearnerError("learner.py: predict gave values whose loss is %r: the training diverged; a smaller learning rate may help" % loss)
        self.rows += len(x)
        self.loss += loss
        self.correct += correct

    def result(self):
        return {"rows": self.rows, "loss": self.loss, "correct": self.correct}
