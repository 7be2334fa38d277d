"""Softmax regression by gradient descent with momentum, in numpy alone: the light model of the benchmarks."""

import math

import numpy as np


class Learner:
    """Weights, bias and their velocities; all numbers are float32."""

    def __init__(self, parameters, data, seed):
        self.parameters, self.data = parameters, data
        inputs, outputs = math.prod(data["shape"]), len(data["classes"])
        self.weights = {"w": np.zeros((inputs, outputs), np.float32), "b": np.zeros(outputs, np.float32)}
        self.velocity = {name: np.zeros_like(weight) for name, weight in self.weights.items()}
        low, high = data["range"]
        self.middle, self.scale = np.float32((low + high) / 2), np.float32(2 / (high - low))

    def state(self):
        return dict(self.weights, **{"velocity_" + name: value for name, value in self.velocity.items()})

    def load(self, state):
        self.weights = {name: state[name] for name in self.weights}
        self.velocity = {name: state["velocity_" + name] for name in self.weights}

    def scaled(self, x):
        out = x.reshape(len(x), -1).astype(np.float32)
        out -= self.middle
        out *= self.scale
        return out

    def probabilities(self, x):
        scores = x @ self.weights["w"] + self.weights["b"]
        powers = np.exp(scores - scores.max(axis=1, keepdims=True))
        return powers / powers.sum(axis=1, keepdims=True)

    def fit(self, x, y):
        loss, correct, size = 0.0, 0, self.parameters["batch_size"]
        momentum = np.float32(self.parameters["momentum"])
        for start in range(0, len(x), size):
            batch, labels = self.scaled(x[start : start + size]), y[start : start + size]
            p, rows = self.probabilities(batch), np.arange(len(labels))
            loss -= float(np.log(np.maximum(p[rows, labels], 1e-12)).sum())
            correct += int((p.argmax(axis=1) == labels).sum())
            p[rows, labels] -= 1
            rate = np.float32(self.parameters["learning_rate"] / len(batch))
            for name, gradient in (("w", batch.T @ p), ("b", p.sum(axis=0))):
                self.velocity[name] = momentum * self.velocity[name] - rate * gradient
                self.weights[name] = self.weights[name] + self.velocity[name]
        return {"loss": loss, "correct": correct}

    def predict(self, x):
        return self.probabilities(self.scaled(x))

    def export(self):
        from onnx import TensorProto, helper, numpy_helper

        constants = dict(self.weights, middle=self.middle, scale=self.scale)
        raw = TensorProto.UINT8 if self.data["dtype"] == "uint8" else TensorProto.FLOAT
        graph = helper.make_graph(
            [
                helper.make_node("Flatten", ["input"], ["flat"], axis=1),
                helper.make_node("Cast", ["flat"], ["float"], to=TensorProto.FLOAT),
                helper.make_node("Sub", ["float", "middle"], ["moved"]),
                helper.make_node("Mul", ["moved", "scale"], ["x"]),
                helper.make_node("Gemm", ["x", "w", "b"], ["scores"]),
                helper.make_node("Softmax", ["scores"], ["probabilities"], axis=1),
            ],
            "softmax",
            [helper.make_tensor_value_info("input", raw, ["n", *self.data["shape"]])],
            [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["n", len(self.data["classes"])])],
            [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
        )
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8).SerializeToString()
