"""Softmax regression with momentum and a shuffle, small enough for tests."""

import time

import numpy as np


class Learner:
    def __init__(self, parameters, data, seed):
        self.rate, self.delay = parameters["learning_rate"], parameters["delay"]
        self.mean, self.std = data["mean"], data["std"]
        shape = (int(np.prod(data["shape"])), len(data["classes"]))
        self.w = np.random.default_rng(seed).normal(0, 0.01, shape).astype(np.float32)
        self.v = np.zeros_like(self.w)

    def state(self):
        return {"w": self.w, "v": self.v}

    def load(self, arrays):
        self.w, self.v = arrays["w"].copy(), arrays["v"].copy()

    def fit(self, x, y):
        time.sleep(self.delay)
        loss, correct = 0.0, 0
        order = np.random.permutation(len(x))
        for rows in np.array_split(order, max(1, len(x) // 16)):
            a, t = (x[rows] - self.mean) / self.std, y[rows]
            p = self.predict(x[rows])
            loss -= float(np.log(np.maximum(p[np.arange(len(t)), t], 1e-12)).sum())
            correct += int((p.argmax(axis=1) == t).sum())
            p[np.arange(len(t)), t] -= 1
            self.v = (0.9 * self.v - self.rate / len(t) * (a.T @ p)).astype(np.float32)
            self.w += self.v
        return {"loss": loss, "correct": correct}

    def merge(self, states, rows):
        time.sleep(self.delay)
        return {name: sum(state[name] * np.float32(n / sum(rows)) for state, n in zip(states, rows)) for name in states[0]}

    def predict(self, x):
        z = ((x - self.mean) / self.std) @ self.w
        e = np.exp(z - z.max(axis=1, keepdims=True))
        return (e / e.sum(axis=1, keepdims=True)).astype(np.float32)

    def export(self):
        from onnx import TensorProto, helper, numpy_helper

        tensors = {"mean": self.mean, "std": self.std, "w": self.w}
        graph = helper.make_graph(
            [
                helper.make_node("Sub", ["input", "mean"], ["a"]),
                helper.make_node("Div", ["a", "std"], ["b"]),
                helper.make_node("MatMul", ["b", "w"], ["z"]),
                helper.make_node("Softmax", ["z"], ["probabilities"], axis=1),
            ],
            "softmax",
            [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["n", len(self.w)])],
            [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["n", self.w.shape[1]])],
            [numpy_helper.from_array(np.ascontiguousarray(v), k) for k, v in tensors.items()],
        )
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8).SerializeToString()
