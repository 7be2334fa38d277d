"""Softmax regression by gradient descent with momentum, in numpy alone: the light model of the benchmarks."""

import math

import numpy as np


class Learner:
    """Weights, bias and their velocities; all numbers are float32."""

    def __init__(self, parameters, data, seed):
        self.parameters, self.data = parameters, data
        size = (math.prod(data["shape"]) + 1, len(data["classes"]))  # the last row is the bias
        self.weights, self.velocity = np.zeros(size, np.float32), np.zeros(size, np.float32)
        low, high = data.get("range") or (-1.0, 1.0)
        self.middle, self.span = np.float32((low + high) / 2), np.float32((high - low) / 2)

    def state(self):
        return {"weights": self.weights, "velocity": self.velocity}

    def load(self, state):
        self.weights, self.velocity = state["weights"], state["velocity"]

    def scaled(self, x):
        out = np.ones((len(x), len(self.weights)), np.float32)
        out[:, :-1] = x.reshape(len(x), -1)
        out[:, :-1] -= self.middle
        out[:, :-1] /= self.span
        return out

    def probabilities(self, x):
        scores = x @ self.weights
        powers = np.exp(scores - scores.max(axis=1, keepdims=True))
        return powers / powers.sum(axis=1, keepdims=True)

    def fit(self, x, y):
        loss, correct, size = 0.0, 0, self.parameters["batch_size"]
        rate, momentum = np.float32(self.parameters["learning_rate"]), np.float32(self.parameters["momentum"])
        for start in range(0, len(x), size):
            batch, labels = self.scaled(x[start : start + size]), y[start : start + size]
            p, rows = self.probabilities(batch), np.arange(len(labels))
            loss -= float(np.log(np.maximum(p[rows, labels], 1e-12)).sum())
            correct += int((p.argmax(axis=1) == labels).sum())
            p[rows, labels] -= 1
            self.velocity = momentum * self.velocity - rate / len(batch) * (batch.T @ p)
            self.weights = self.weights + self.velocity
        return {"loss": loss, "correct": correct}

    def predict(self, x):
        return self.probabilities(self.scaled(x))

    def export(self):
        from onnx import TensorProto, helper, numpy_helper

        constants = {"middle": self.middle, "span": self.span, "w": self.weights[:-1], "b": self.weights[-1]}
        raw = TensorProto.UINT8 if self.data["dtype"] == "uint8" else TensorProto.FLOAT
        graph = helper.make_graph(
            [
                helper.make_node("Flatten", ["input"], ["flat"], axis=1),
                helper.make_node("Cast", ["flat"], ["float"], to=TensorProto.FLOAT),
                helper.make_node("Sub", ["float", "middle"], ["moved"]),
                helper.make_node("Div", ["moved", "span"], ["x"]),
                helper.make_node("Gemm", ["x", "w", "b"], ["scores"]),
                helper.make_node("Softmax", ["scores"], ["probabilities"], axis=1),
            ],
            "softmax",
            [helper.make_tensor_value_info("input", raw, ["n", *self.data["shape"]])],
            [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["n", len(self.data["classes"])])],
            [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
        )
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8).SerializeToString()
