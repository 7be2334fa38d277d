"""The plain side of the benchmarks: the same learners and the same packs, in a process of its own and without a database.

Reads a JSON command a line from standard input, answers with a JSON line.
Threads and malloc are set as in the database, by the same code, or the comparison would be a lie.
"""

import hashlib
import json
import pathlib
import sys
import time

from insitu_runtime import boot

boot.tune()

import numpy  # noqa: E402  (after tune, which sets the number of threads)

from insitu_runtime import inmemory, onnxmodel  # noqa: E402


class Worker:
    def open(self, app, packs):
        """Loads an app and the packs of a binary COPY file into memory."""
        self.release = inmemory.Release(inmemory.bundle_of(app))
        with open(packs, "rb") as stream:
            self.packs = sorted(inmemory.read_packs(stream), key=lambda pack: pack[2])
        return {"packs": len(self.packs)}

    def epoch(self, spec, state):
        """One epoch of one shard from a state's file, exactly as the database trains it."""
        start = pathlib.Path(state).read_bytes()
        packs = [(pack[4], pack[5]) for pack in self.packs if pack[0] == "train" and pack[1] == spec["shard"]]
        text = json.dumps(spec)
        began = time.perf_counter()
        fit = self.release.shard.Fit(self.release.learning, self.release.parse_spec(text), start)
        for labels, data in packs:
            fit.step(labels, data)
        learned, metrics = fit.result()
        seconds = time.perf_counter() - began
        return {"seconds": seconds, "rows": metrics["rows"], "sha256": hashlib.sha256(learned).hexdigest(), "memory": peak()}

    def read(self, path, sizes, whole):
        """A file as numpy arrays of the given sizes, read whole or one by one; the first and last byte of each looked at."""
        total, at, began = 0, 0, time.perf_counter()
        if whole:
            everything = numpy.fromfile(path, numpy.uint8)
        with open(path, "rb", buffering=0) as stream:
            for size in sizes:
                array = everything[at : at + size] if whole else numpy.frombuffer(stream.read(size), numpy.uint8)
                total, at = total + int(array[0]) + int(array[-1]), at + size
        return {"seconds": time.perf_counter() - began, "total": total}

    def load_model(self, path):
        self.model = onnxmodel.Predictor(onnxmodel.open_model(pathlib.Path(path).read_bytes()))
        return {}

    def predict(self, path, rows, size):
        """Predicts the examples of a raw file in batches of size with ONNX Runtime and nothing else."""
        x = numpy.fromfile(path, self.model.dtype).reshape([-1, *self.model.shape])[:rows]
        checksum, began = 0, time.perf_counter()
        for start in range(0, len(x), size):
            checksum += int(self.model.session.run(None, {self.model.name: x[start : start + size]})[0].argmax(axis=1).sum())
        return {"seconds": time.perf_counter() - began, "rows": len(x), "checksum": checksum}


def peak():
    """The most memory this process held, in bytes."""
    for line in pathlib.Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return 0


def main():
    worker = Worker()
    for line in sys.stdin:
        command = json.loads(line)
        answer = getattr(worker, command.pop("do"))(**command)
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
