"""Handwritten digits by a network with one hidden layer, in numpy alone."""

import math

import numpy as np

BETA1, BETA2, EPSILON = np.float32(0.9), np.float32(0.999), np.float32(1e-7)


class Learner:
    """Softmax regression on relu features, trained by Adam. All numbers are float32."""

    def __init__(self, parameters, data, seed):
        self.parameters, self.data, self.seed = parameters, data, seed
        rng = np.random.default_rng(seed)
        inputs, hidden, outputs = math.prod(data["shape"]), parameters["hidden"], len(data["classes"])
        self.weights = {
            "w1": (rng.standard_normal((inputs, hidden)) * math.sqrt(2 / inputs)).astype(np.float32),
            "b1": np.zeros(hidden, np.float32),
            "w2": (rng.standard_normal((hidden, outputs)) * math.sqrt(1 / hidden)).astype(np.float32),
            "b2": np.zeros(outputs, np.float32),
        }
        self.mean = {name: np.zeros_like(weight) for name, weight in self.weights.items()}
        self.square = {name: np.zeros_like(weight) for name, weight in self.weights.items()}
        self.steps = 0
        self.rate = parameters["learning_rate"]
        self.importance = np.ones(outputs, np.float32)
        if parameters["class_weight"] == "balanced":
            counts = np.maximum(data["class_counts"], 1)
            self.importance = (counts.sum() / (outputs * counts)).astype(np.float32)
        self.rng = rng

    def state(self):
        out = {"steps": np.array(self.steps)}
        for name in self.weights:
            out[name], out["mean_" + name], out["square_" + name] = self.weights[name], self.mean[name], self.square[name]
        return out

    def load(self, state):
        self.steps = int(state["steps"])
        for name in self.weights:
            self.weights[name], self.mean[name], self.square[name] = state[name], state["mean_" + name], state["square_" + name]

    def begin_epoch(self, epoch, shard, shards):
        self.rng = np.random.default_rng([self.seed, epoch, shard])
        progress = (epoch - 1) / self.parameters["epochs"]
        self.rate = self.parameters["learning_rate"] * shards ** self.parameters["shard_rate"] * (1 + math.cos(math.pi * progress)) / 2

    def fit(self, x, y):
        loss, correct = 0.0, 0
        order = self.rng.permutation(len(x))
        for start in range(0, len(x), self.parameters["batch_size"]):
            rows = order[start : start + self.parameters["batch_size"]]
            images, labels = x[rows], y[rows]
            if self.parameters["shift"] > 0:
                images = self.shifted(images)
            batch_loss, hits = self.step(self.scaled(images), labels)
            loss, correct = loss + batch_loss, correct + hits
        return {"loss": loss, "correct": correct}

    def predict(self, x):
        return self.forward(self.scaled(x))[1]

    def scaled(self, x):
        low, high = self.data["range"]
        return (x.reshape(len(x), -1).astype(np.float32) - np.float32(low)) / np.float32(high - low)

    def shifted(self, images):
        """Each image moved by at most one pixel up or down and sideways, over an empty edge."""
        n, height, width = images.shape
        padded = np.pad(images, ((0, 0), (1, 1), (1, 1)))
        move = self.parameters["shift"] / 2
        down, right = self.rng.choice(3, (2, n, 1, 1), p=[move, 1 - 2 * move, move])
        return padded[np.arange(n)[:, None, None], down + np.arange(height)[:, None], right + np.arange(width)]

    def forward(self, x):
        hidden = np.maximum(x @ self.weights["w1"] + self.weights["b1"], 0)
        scores = hidden @ self.weights["w2"] + self.weights["b2"]
        powers = np.exp(scores - scores.max(axis=1, keepdims=True))
        return hidden, powers / powers.sum(axis=1, keepdims=True)

    def step(self, x, y):
        hidden, p = self.forward(x)
        picked = p[np.arange(len(y)), y]
        loss, correct = float(-np.log(np.maximum(picked, 1e-12)).sum()), int((p.argmax(axis=1) == y).sum())
        error = p.copy()
        error[np.arange(len(y)), y] -= 1
        error *= self.importance[y][:, None] / len(y)
        back = (error @ self.weights["w2"].T) * (hidden > 0)
        self.adam({"w2": hidden.T @ error, "b2": error.sum(axis=0), "w1": x.T @ back, "b1": back.sum(axis=0)})
        return loss, correct

    def adam(self, gradients):
        self.steps += 1
        rate = np.float32(self.rate * math.sqrt(1 - 0.999**self.steps) / (1 - 0.9**self.steps))
        for name, gradient in gradients.items():
            self.mean[name] = BETA1 * self.mean[name] + (1 - BETA1) * gradient
            self.square[name] = BETA2 * self.square[name] + (1 - BETA2) * gradient**2
            self.weights[name] = self.weights[name] - rate * self.mean[name] / (np.sqrt(self.square[name]) + EPSILON)

    def export(self):
        """ONNX with the scaling inside: raw uint8 pixels in, probabilities out."""
        from onnx import TensorProto, helper, numpy_helper

        low, high = self.data["range"]
        constants = dict(self.weights, low=np.float32(low), span=np.float32(high - low))
        shape = ["n"] + list(self.data["shape"])
        graph = helper.make_graph(
            [
                helper.make_node("Flatten", ["input"], ["flat"], axis=1),
                helper.make_node("Cast", ["flat"], ["float"], to=TensorProto.FLOAT),
                helper.make_node("Sub", ["float", "low"], ["moved"]),
                helper.make_node("Div", ["moved", "span"], ["x"]),
                helper.make_node("Gemm", ["x", "w1", "b1"], ["features"]),
                helper.make_node("Relu", ["features"], ["hidden"]),
                helper.make_node("Gemm", ["hidden", "w2", "b2"], ["scores"]),
                helper.make_node("Softmax", ["scores"], ["probabilities"], axis=1),
            ],
            "digits",
            [helper.make_tensor_value_info("input", TensorProto.UINT8 if self.data["dtype"] == "uint8" else TensorProto.FLOAT, shape)],
            [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["n", len(self.data["classes"])])],
            [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
        )
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8).SerializeToString()
