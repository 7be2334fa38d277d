"""Calls the app's learner: makes it, feeds it packs, and says where in it an error arose."""

import importlib
import json
import random
import sys

import numpy

from . import state as states

SMALLEST = 1e-12  # probabilities are cut here before their logarithm


class LearnerError(Exception):
    """An error in the app's code; its text names the file and line."""

    __module__ = "insitu"  # what the server's report shows, instead of the release's package


class Learning:
    """The learner of one bundle."""

    def __init__(self, bundle):
        self.bundle = bundle
        with self.errors():
            module = importlib.import_module(bundle.package + ".learner")
        self.type = getattr(module, "Learner", None)
        if self.type is None:
            raise LearnerError("learner.py defines no class Learner")
        if "torch" in sys.modules:
            sys.modules["torch"].set_num_threads(1)

    def errors(self):
        """A context that turns errors of the app's code into LearnerError."""
        return Located(self.bundle)

    def new(self, spec, state=None):
        """A learner for a spec (dict): seeded, and with that state (bytes) if given."""
        seed = spec["seed"]
        seed_libraries([seed])
        with self.errors():
            learner = self.type(dict(spec["parameters"]), description(spec["input"]), seed)
        if state is not None:
            arrays = states.decode(state)
            with self.errors():
                learner.load(arrays)
        return learner

    def begin(self, learner, spec):
        """Seeds the libraries for one epoch of one shard and calls begin_epoch, if there is one."""
        epoch, shard, shards = spec["epoch"], spec["shard"], spec["shards"]
        seed_libraries([spec["seed"], epoch, shard])
        if hasattr(learner, "begin_epoch"):
            with self.errors():
                learner.begin_epoch(epoch, shard, shards)

    def end(self, learner):
        """Calls end_epoch, if there is one; returns what it adds to the epoch's (sum of losses, number correct)."""
        if not hasattr(learner, "end_epoch"):
            return 0.0, 0
        with self.errors():
            loss, correct = sums(learner.end_epoch() or {"loss": 0.0})
        return finite(loss, "end_epoch"), correct

    def state(self, learner):
        """The learner's state as bytes."""
        with self.errors():
            arrays = learner.state()
        return states.encode(arrays)

    def fit(self, learner, x, y):
        """Trains on one pack; returns (sum of losses, number correct)."""
        with self.errors():
            loss, correct = sums(learner.fit(x, y))
        return finite(loss, "fit"), correct

    def predict(self, learner, x):
        """Predictions for x: float32 [n, outputs]."""
        with self.errors():
            out = numpy.ascontiguousarray(learner.predict(x), dtype=numpy.float32)
        if out.ndim != 2 or len(out) != len(x):
            raise LearnerError("learner.py: predict returned shape %s for %d examples; expected (%d, outputs)" % (out.shape, len(x), len(x)))
        return out

    def merge(self, learner, parts, rows):
        """One state (bytes) from the states of the shards, by the learner's merge or the weighted average."""
        kept = [(states.decode(part), int(n)) for part, n in zip(parts, rows) if part is not None and n]
        if not kept:
            raise ValueError("there is no state to merge: no shard saw a row")
        arrays, rows = [part for part, _ in kept], [n for _, n in kept]
        if not hasattr(learner, "merge"):
            return states.encode(states.average(arrays, rows))
        with self.errors():
            merged = learner.merge(arrays, rows)
        return states.encode(merged)

    def export(self, learner):
        """The learner's model as ONNX bytes."""
        with self.errors():
            return bytes(learner.export())


class Located:
    """Re-raises errors of the app's code with the innermost line of it."""

    def __init__(self, bundle):
        self.bundle = bundle

    def __enter__(self):
        return self

    def __exit__(self, kind, error, traceback):
        if error is None or not isinstance(error, Exception):
            return False
        if isinstance(error, SyntaxError) and self.bundle.app_frame(error.filename or ""):
            path = self.bundle.app_frame(error.filename)
            raise LearnerError("%s, line %s: %s: %s" % (path, error.lineno, kind.__name__, error.msg)) from error
        place = "learner.py"
        while traceback is not None:
            code = traceback.tb_frame.f_code
            path = self.bundle.app_frame(code.co_filename)
            if path is not None:
                place = "%s, line %d, in %s" % (path, traceback.tb_lineno, code.co_name)
            traceback = traceback.tb_next
        raise LearnerError("%s: %s: %s" % (place, kind.__name__, error)) from error


def sums(result):
    """(loss, correct) of what a learner returned."""
    return float(result["loss"]), int(result.get("correct", 0))


def finite(loss, method):
    """The loss a learner's method returned; LearnerError when it is no number."""
    if not numpy.isfinite(loss):
        raise LearnerError("learner.py: %s returned loss %r; a smaller learning rate may help" % (method, loss))
    return loss


def seed_libraries(numbers):
    """Seeds random, numpy and (where the app uses it) torch from a list of whole numbers."""
    seed = int(numpy.random.SeedSequence([abs(int(n)) for n in numbers]).generate_state(1)[0])
    random.seed(seed)
    numpy.random.seed(seed)
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(seed)


def parse_spec(text):
    """The spec as a dict; ValueError when a part is missing."""
    spec = json.loads(text)
    missing = [name for name in ("input", "parameters", "seed") if name not in spec]
    if missing:
        raise ValueError("the spec lacks %s; expected input, parameters, seed, epoch, shard, shards" % ", ".join(missing))
    for name, default in (("epoch", 0), ("shard", 0), ("shards", 1)):
        spec[name] = spec.get(name, default)
    return spec


def description(data):
    """What the learner gets to know of its data: spec["input"] with mean and std as arrays that broadcast over an example."""
    out = {name: value for name, value in data.items() if name != "statistics"}
    statistics = data.get("statistics", {"shape": [1], "mean": [0.0], "std": [1.0]})
    for name in ("mean", "std"):
        out[name] = numpy.array(statistics[name], numpy.float32).reshape(statistics["shape"])
    return out


def is_regression(data):
    """Whether spec["input"] describes a regression."""
    return data.get("task", "classification") == "regression"


def given(name, value):
    """The value; ValueError for None, which is also what PL/Python makes of a value it has no memory for."""
    if value is None:
        raise ValueError("%s is null: it is not in its table, or the database session is out of memory" % name)
    return value


def examples(data, packed):
    """A read-only array [n, *shape] over the bytes of a pack."""
    dtype = numpy.dtype(data["dtype"]).newbyteorder("<")
    if dtype.name not in ("uint8", "float32"):
        raise ValueError("input dtype is %r; expected uint8 or float32" % data["dtype"])
    shape = tuple(data["shape"])
    size = int(numpy.prod(shape, dtype=numpy.int64)) * dtype.itemsize
    if not given("a pack's data", packed) or len(packed) % size:
        raise ValueError("a pack of %d bytes does not hold whole examples of %d bytes (%s of %s)" % (len(packed), size, dtype.name, shape))
    return numpy.frombuffer(packed, dtype).reshape((-1,) + shape)


def targets(data, packed, n):
    """The n labels of a pack: int32 class indices, or float32 values."""
    values = numpy.frombuffer(given("a pack's labels", packed), "<f4" if is_regression(data) else "<i4")
    if len(values) != n:
        raise ValueError("a pack holds %d labels for %d examples" % (len(values), n))
    return values


def score(data, outputs, y):
    """(loss, correct) of predictions: sums of -log p and of hits, or of squared errors and 0."""
    if is_regression(data):
        return float(numpy.square(outputs[:, 0].astype(numpy.float64) - y).sum()), 0
    p = outputs[numpy.arange(len(y)), y].astype(numpy.float64)
    return float(-numpy.log(numpy.maximum(p, SMALLEST)).sum()), int((outputs.argmax(axis=1) == y).sum())
