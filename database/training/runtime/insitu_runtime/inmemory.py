"""Trains outside the database on the same packs, with the same shards, order and merge.

    copy (select split, shard, id, n, labels, data from packs_x order by id) to stdout (format binary)

writes the packs to a file; then

    python -m insitu_runtime.inmemory --app DIR --packs FILE --spec JSON

prints the result as JSON. It needs no database. All packs are held in memory.
"""

import argparse
import hashlib
import json
import pathlib
import struct
import sys

from . import boot, driver

SIGNATURE = b"PGCOPY\n\xff\r\n\0"


def read_packs(stream):
    """[(split, shard, id, n, labels, data)] of a binary COPY stream; split is text, numbers are int4 or int8."""
    if stream.read(len(SIGNATURE)) != SIGNATURE:
        raise ValueError("the packs are no binary COPY file")
    _, extension = struct.unpack("!iI", exactly(stream, 8))
    exactly(stream, extension)
    packs = []
    while True:
        (columns,) = struct.unpack("!h", exactly(stream, 2))
        if columns == -1:
            return packs
        if columns != 6:
            raise ValueError("a row of the packs has %d columns; expected split, shard, id, n, labels, data" % columns)
        values = []
        for _ in range(columns):
            (size,) = struct.unpack("!i", exactly(stream, 4))
            if size < 0:
                raise ValueError("a column of the packs is null")
            values.append(exactly(stream, size))
        split, shard, number, n, labels, data = values
        packs.append((split.decode(), integer(shard), integer(number), integer(n), labels, data))


def integer(raw):
    return int.from_bytes(raw, "big", signed=True)


def exactly(stream, size):
    raw = stream.read(size)
    if len(raw) != size:
        raise ValueError("the packs end in the middle: the file is truncated")
    return raw


def bundle_of(folder):
    """The bundle of an app's folder and of this runtime, as internal/mlapp makes it."""
    files = {}
    runtime = pathlib.Path(__file__).parent
    for path in runtime.glob("*.py"):
        files["insitu_runtime/" + path.name] = path.read_text("utf-8")
    for path in pathlib.Path(folder).rglob("*.py"):
        name = path.relative_to(folder)
        if path.name.startswith("test_") or path.name == "conftest.py" or any(part.startswith((".", "__pycache__")) for part in name.parts):
            continue
        files[name.as_posix()] = path.read_text("utf-8")
    return json.dumps(files, sort_keys=True)


class Memory(driver.Trainer):
    """A training whose packs and states are in this process."""

    def __init__(self, release, packs, spec, shards):
        self.learning, self.shard, self.spec, self.shards = release.learning, release.shard, spec, shards
        self.packs = sorted(packs, key=lambda pack: pack[2])
        self.states = [self.learning.state(self.learning.new(spec))]

    def load(self):
        return []

    def fit(self, epoch, shard):
        packs = [pack for pack in self.packs if pack[0] == "train" and pack[1] == shard]
        if not packs:
            return None
        fit = self.shard.Fit(self.learning, dict(self.spec, epoch=epoch, shard=shard, shards=self.shards), self.states[epoch - 1])
        for pack in packs:
            fit.step(pack[4], pack[5])
        state, metrics = fit.result()
        return state, metrics["rows"], metrics

    def merge(self, states, rows):
        return self.learning.merge(self.learning.new(self.spec), states, rows)

    def score(self, state, shard):
        return self.sums(state, [pack for pack in self.packs if pack[0] == "validation" and pack[1] == shard])

    def record(self, epoch, state, metrics):
        self.states.append(state)
        return metrics

    def sums(self, state, packs):
        """Loss and hits of a state on packs, None when there are none."""
        score = self.shard.Score(self.learning, self.spec, state)
        for pack in packs:
            score.step(pack[4], pack[5])
        return score.result() if packs else None


class Release:
    """The modules of a bundle that a training in memory needs."""

    def __init__(self, bundle):
        name = hashlib.sha256(bundle.encode()).hexdigest()
        module = boot.load(name, bundle, "insitu_runtime.learning")
        self.parse_spec = module.parse_spec
        self.learning = module.Learning(sys.modules[module.__name__.partition(".")[0]].bundle)
        self.shard = boot.load(name, bundle, "insitu_runtime.shard")


def train(app, packs, spec):
    """The result of a training as a dict, and its states, the initial one first."""
    release = Release(bundle_of(app))
    spec = release.parse_spec(json.dumps(spec))
    values = spec["parameters"]
    shards = 1 + max(pack[1] for pack in packs)
    memory = Memory(release, packs, spec, shards)
    curve, best = driver.train(memory, values["epochs"], values.get("patience", 0), shards)
    test = memory.sums(memory.states[best], [pack for pack in memory.packs if pack[0] == "test"])
    result = {
        "epochs": [driver.summary(spec["input"], epoch, metrics) for epoch, metrics in curve],
        "best_epoch": best,
        "shards": shards,
        "state_sha256": hashlib.sha256(memory.states[best]).hexdigest(),
        "states_sha256": [hashlib.sha256(state).hexdigest() for state in memory.states],
    }
    if test:
        result.update(driver.means("test", spec["input"], test), test_rows=test["rows"])
    return result, memory.states


def main(arguments=None):
    parser = argparse.ArgumentParser(prog="insitu_runtime.inmemory", description="Trains an ML app outside the database on packs from a file.")
    parser.add_argument("--app", required=True, help="the app's folder")
    parser.add_argument("--packs", required=True, help="binary COPY of split, shard, id, n, labels, data; - for standard input")
    parser.add_argument("--spec", required=True, help="JSON: input, parameters, seed, as in jobs.spec")
    parser.add_argument("--epochs", type=int, help="overrides the parameter epochs")
    options = parser.parse_args(arguments)
    spec = json.loads(options.spec)
    if options.epochs is not None:
        spec["parameters"] = dict(spec["parameters"], epochs=options.epochs)
    stream = sys.stdin.buffer if options.packs == "-" else open(options.packs, "rb")
    with stream:
        packs = read_packs(stream)
    json.dump(train(options.app, packs, spec)[0], sys.stdout)
    sys.stdout.write("\n")


if __name__ == "__main__":
    main()
