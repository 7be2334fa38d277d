"""CIFAR-10 by a small convolutional network, in PyTorch."""

import io

import numpy as np
import torch
from torch import nn


class Network(nn.Sequential):
    """Three 3x3 convolutions without padding, the later ones with twice the filters, two of them pooled, and two dense layers."""

    def __init__(self, channels, height, width, classes, filters):
        height, width = ((height - 2) // 2 - 2) // 2 - 2, ((width - 2) // 2 - 2) // 2 - 2
        super().__init__(
            nn.Conv2d(channels, filters, 3), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(filters, 2 * filters, 3), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(2 * filters, 2 * filters, 3), nn.ReLU(),
            nn.Flatten(),
            nn.Linear(2 * filters * height * width, 64), nn.ReLU(),
            nn.Linear(64, classes),
        )  # fmt: skip


class Served(nn.Module):
    """What is exported: raw pixels in, probabilities out."""

    def __init__(self, network, low, high):
        super().__init__()
        self.network, self.low, self.span = network, low, high - low

    def forward(self, pixels):
        return torch.softmax(self.network((pixels.float() - self.low) / self.span), dim=1)


class Learner:
    """The network, its Adam optimizer, and nothing else."""

    def __init__(self, parameters, data, seed):
        torch.set_num_threads(1)
        torch.use_deterministic_algorithms(True)
        torch.manual_seed(seed)
        self.parameters, self.data, self.seed = parameters, data, seed
        self.network = Network(*data["shape"], len(data["classes"]), parameters["filters"])
        self.names = [name for name, _ in self.network.named_parameters()]
        self.adam = torch.optim.Adam(self.network.parameters(), lr=parameters["learning_rate"])
        for weight in self.network.parameters():  # as Adam does at its first step, so that the state is complete from the start
            self.adam.state[weight] = {"step": torch.tensor(0.0), "exp_avg": torch.zeros_like(weight), "exp_avg_sq": torch.zeros_like(weight)}
        self.random = torch.Generator().manual_seed(seed)
        self.importance = torch.ones(len(data["classes"]))
        if parameters["class_weight"] == "balanced":
            counts = np.maximum(data["class_counts"], 1)
            self.importance = torch.from_numpy(counts.sum() / (len(counts) * counts)).float()

    def state(self):
        out = {}
        for name, weight in zip(self.names, self.network.parameters()):
            moments = self.adam.state[weight]
            out[name] = weight.detach().numpy().copy()
            out["mean/" + name] = moments["exp_avg"].numpy().copy()
            out["square/" + name] = moments["exp_avg_sq"].numpy().copy()
        out["steps"] = np.array(int(moments["step"]))
        return out

    def load(self, state):
        with torch.no_grad():
            for name, weight in zip(self.names, self.network.parameters()):
                weight.copy_(torch.from_numpy(state[name]))
                self.adam.state[weight] = {
                    "step": torch.tensor(float(state["steps"])),
                    "exp_avg": torch.from_numpy(state["mean/" + name].copy()),
                    "exp_avg_sq": torch.from_numpy(state["square/" + name].copy()),
                }

    def begin_epoch(self, epoch, shard, shards):
        self.random.manual_seed(int(np.random.SeedSequence([self.seed, epoch, shard]).generate_state(1)[0]))
        self.adam.param_groups[0]["lr"] = self.parameters["learning_rate"] * shards ** self.parameters["shard_rate"]

    def fit(self, x, y):
        loss, correct = 0.0, 0
        labels = torch.from_numpy(y.astype(np.int64))
        pixels = self.scaled(x)
        order = torch.randperm(len(x), generator=self.random)
        for rows in order.split(self.parameters["batch_size"]):
            scores = self.network(pixels[rows])
            losses = nn.functional.cross_entropy(scores, labels[rows], reduction="none")
            self.adam.zero_grad()
            (losses * self.importance[labels[rows]]).mean().backward()
            self.adam.step()
            loss += losses.sum().item()
            correct += int((scores.argmax(dim=1) == labels[rows]).sum())
        return {"loss": loss, "correct": correct}

    def predict(self, x):
        with torch.no_grad():
            return torch.softmax(self.network(self.scaled(x)), dim=1).numpy()

    def scaled(self, x):
        low, high = self.data["range"]
        return (torch.from_numpy(x.astype(np.float32)) - low) / (high - low)

    def export(self):
        out = io.BytesIO()
        example = torch.zeros([2] + list(self.data["shape"]), dtype=torch.uint8 if self.data["dtype"] == "uint8" else torch.float32)
        torch.onnx.export(
            Served(self.network, *self.data["range"]).eval(), example, out, opset_version=13,
            input_names=["input"], output_names=["probabilities"], dynamic_axes={"input": {0: "n"}, "probabilities": {0: "n"}},
        )  # fmt: skip
        return out.getvalue()
