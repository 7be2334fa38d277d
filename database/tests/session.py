"""A database session without a database: what plpy is to the runtime."""

import hashlib
import json
import pathlib

import numpy as np

from insitu_runtime import boot, inmemory

DATABASE = pathlib.Path(__file__).parent.parent
RUNTIME = DATABASE / "training" / "runtime"
INFERENCE = DATABASE / "inference" / "runtime"
EXAMPLES = DATABASE.parent / "examples"

# The smallest learner: softmax regression on raw values.
LEARNER = """
import numpy as np

class Learner:
    def __init__(self, parameters, data, seed):
        self.parameters, self.data = parameters, data
        inputs, outputs = int(np.prod(data["shape"])), len(data.get("classes", [0]))
        self.w = np.random.standard_normal((inputs, outputs)).astype(np.float32) * np.float32(0.01)
        self.steps = 0

    def state(self):
        return {"w": self.w, "steps": np.array(self.steps)}

    def load(self, state):
        self.w, self.steps = state["w"].copy(), int(state["steps"])

    def fit(self, x, y):
        p = self.predict(x)
        right = p[np.arange(len(y)), y]
        correct = int((p.argmax(axis=1) == y).sum())
        p[np.arange(len(y)), y] -= 1
        self.w -= np.float32(self.parameters["rate"] / len(y)) * (x.reshape(len(x), -1).astype(np.float32).T @ p)
        self.steps += 1
        return {"loss": float(-np.log(right).sum()), "correct": correct}

    def predict(self, x):
        scores = x.reshape(len(x), -1).astype(np.float32) @ self.w
        powers = np.exp(scores - scores.max(axis=1, keepdims=True))
        return powers / powers.sum(axis=1, keepdims=True)

    def export(self):
        from onnx import TensorProto, helper, numpy_helper
        graph = helper.make_graph(
            [helper.make_node("Flatten", ["input"], ["flat"]), helper.make_node("MatMul", ["flat", "w"], ["scores"]),
             helper.make_node("Softmax", ["scores"], ["probabilities"], axis=1)], "g",
            [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["n"] + list(self.data["shape"]))],
            [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["n", self.w.shape[1]])],
            [numpy_helper.from_array(self.w, "w")])
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8).SerializeToString()
"""

SPEC = {
    "input": {"task": "classification", "shape": [2, 2], "dtype": "float32", "classes": ["a", "b", "c"]},
    "parameters": {"rate": 0.1, "epochs": 3, "patience": 0},
    "seed": 5,
}


class Session:
    """execute, prepare, notice and error of plpy; statement() begins a new statement."""

    class Error(Exception):
        pass

    def __init__(self, answers=(), version="PostgreSQL 15.18"):
        self.version = version
        self.answers, self.notices, self.number = dict(answers), [], 1

    def statement(self):
        self.number += 1

    def prepare(self, sql, types=()):
        return sql

    def execute(self, sql, args=()):
        if "statement_timestamp" in sql:
            return [{"at": str(self.number), "process": 7, "segment": None}]
        if sql == "select version() as version":
            return [{"version": self.version}]
        answer = self.answers[sql]
        return answer(*args) if callable(answer) else answer

    def notice(self, text):
        self.notices.append(json.loads(text))

    def error(self, message, **details):
        raise self.Error(message, details)


def digest_of(bundle):
    return hashlib.sha256(bundle.encode()).hexdigest()


def bundle_of(**files):
    """A bundle of the runtime and an app's files, given as learner="source"."""
    sources = json.loads(inmemory.bundle_of(DATABASE / "tests" / "no-app"))
    sources.update({name.replace("__", "/") + ".py": text for name, text in files.items()})
    return json.dumps(sources)


def host_of(bundle, session=None):
    digest = digest_of(bundle)
    return boot.load(digest, bundle, "insitu_runtime.host").Host(digest, session or Session())


def packs_of(rows=60, size=16, shards=2, seed=3):
    """Packs of three classes that a line tells apart, in the three splits."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 3, rows).astype("<i4")
    x = (rng.standard_normal((rows, 2, 2)) * 0.3).astype("<f4")
    x[np.arange(rows), y // 2, y % 2] += 2
    packs, number = [], 0
    for split, part in (("train", slice(0, rows // 2)), ("validation", slice(rows // 2, rows * 3 // 4)), ("test", slice(rows * 3 // 4, rows))):
        px, py = x[part], y[part]
        for start in range(0, len(py), size):
            n = len(py[start : start + size])
            packs.append((split, number % shards, number, n, py[start : start + size].tobytes(), px[start : start + size].tobytes()))
            number += 1
    return packs
