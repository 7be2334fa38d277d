"""Softmax regression, and linear regression where the task is a regression, in numpy alone."""

import math

import numpy as np


class Learner:
    """One layer on standardised inputs, trained by plain stochastic gradient descent. All numbers are float32.

    Gradient descent has no moments to keep, and its steps are as large as the errors: targets of a regression need no scaling.
    """

    def __init__(self, parameters, data, seed):
        self.parameters, self.data, self.seed = parameters, data, seed
        self.regression = data["task"] == "regression"
        inputs, outputs = math.prod(data["shape"]), 1 if self.regression else len(data["classes"])
        self.mean, std = (np.broadcast_to(data[name], data["shape"]).reshape(-1).astype(np.float32) for name in ("mean", "std"))
        self.std = np.where(std > 0, std, np.float32(1))
        self.weights, self.bias = np.zeros((inputs, outputs), np.float32), np.zeros(outputs, np.float32)
        self.importance = np.ones(outputs, np.float32)
        if parameters.get("class_weight") == "balanced":
            counts = np.maximum(data["class_counts"], 1)
            self.importance = (counts.sum() / (len(counts) * counts)).astype(np.float32)
        self.rate, self.rng = parameters["learning_rate"], np.random.default_rng(seed)

    def state(self):
        return {"weights": self.weights, "bias": self.bias}

    def load(self, state):
        self.weights, self.bias = state["weights"], state["bias"]

    def begin_epoch(self, epoch, shard, shards):
        self.rng = np.random.default_rng([self.seed, epoch, shard])
        progress = (epoch - 1) / self.parameters["epochs"]
        self.rate = self.parameters["learning_rate"] * shards ** self.parameters["shard_rate"] * (1 + math.cos(math.pi * progress)) / 2

    def fit(self, x, y):
        loss, correct = 0.0, 0
        x, order = self.scaled(x), self.rng.permutation(len(x))
        for start in range(0, len(x), self.parameters["batch_size"]):
            rows = order[start : start + self.parameters["batch_size"]]
            batch_loss, hits = self.step(x[rows], y[rows])
            loss, correct = loss + batch_loss, correct + hits
        return {"loss": loss, "correct": correct}

    def predict(self, x):
        return self.outputs(self.scaled(x))

    def scaled(self, x):
        return (x.reshape(len(x), -1).astype(np.float32) - self.mean) / self.std

    def outputs(self, x):
        scores = x @ self.weights + self.bias
        if self.regression:
            return scores
        powers = np.exp(scores - scores.max(axis=1, keepdims=True))
        return powers / powers.sum(axis=1, keepdims=True)

    def step(self, x, y):
        out = self.outputs(x)
        if self.regression:
            error = out - y[:, None]
            loss, correct = float(np.square(error).sum()), 0
        else:
            rows = np.arange(len(y))
            loss, correct = float(-np.log(np.maximum(out[rows, y], 1e-12)).sum()), int((out.argmax(axis=1) == y).sum())
            out[rows, y] -= 1
            error = out * self.importance[y][:, None]
        rate = np.float32(self.rate)
        self.weights = self.weights - rate * (x.T @ error / np.float32(len(y)) + np.float32(self.parameters["decay"]) * self.weights)
        self.bias = self.bias - rate * error.mean(axis=0)
        return loss, correct

    def export(self):
        """ONNX with the scaling inside: raw values in, probabilities or the value out."""
        from onnx import TensorProto, helper, numpy_helper

        constants = {"mean": self.mean, "std": self.std, "weights": self.weights, "bias": self.bias}
        outputs = [helper.make_node("Identity", ["scores"], ["probabilities"])]
        if not self.regression:
            outputs = [helper.make_node("Softmax", ["scores"], ["probabilities"], axis=1)]
        graph = helper.make_graph(
            [
                helper.make_node("Flatten", ["input"], ["flat"], axis=1),
                helper.make_node("Cast", ["flat"], ["float"], to=TensorProto.FLOAT),
                helper.make_node("Sub", ["float", "mean"], ["moved"]),
                helper.make_node("Div", ["moved", "std"], ["x"]),
                helper.make_node("Gemm", ["x", "weights", "bias"], ["scores"]),
                *outputs,
            ],
            "regression",
            [helper.make_tensor_value_info("input", TensorProto.UINT8 if self.data["dtype"] == "uint8" else TensorProto.FLOAT, ["n", *self.data["shape"]])],
            [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["n", len(self.bias)])],
            [numpy_helper.from_array(value, name) for name, value in constants.items()],
        )
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8).SerializeToString()
