"""run_training_task: a whole training in one SQL call, through the same SQL functions the Go driver uses."""

import hashlib
import json

from . import driver, parameters

OPTIONS = {"app": str, "dataset": str, "epochs": int, "parameters": dict, "seed": int, "start": str}

RELEASE = """
select ordinal, app, digest, manifest from releases where app = coalesce($1, app) order by ordinal desc limit 1"""

DATASET = """
select digest, pack_table, manifest from datasets where digest = coalesce($1, digest) order by created_at desc, digest limit 1"""

PLACE = """
select current_schema() as schema, quote_ident(current_schema()) || '.' || quote_ident($1) as packs"""

JOB = """
insert into jobs (id, release, dataset, spec)
select $1, $2, $3, $4::json where not exists (select 1 from jobs where id = $1)"""

INITIAL = """
insert into checkpoints (job, epoch, state, metrics)
select $4, 0, init_state($1, (select bundle from releases where ordinal = $2), $3), '{}'::json
where not exists (select 1 from checkpoints where job = $4 and epoch = 0)"""

EXPORT = """
select export_model($1, (select bundle from releases where ordinal = $2), $3, state) as onnx
from checkpoints where job = $4 and epoch = $5"""

FINISH = """
insert into models (job, epoch, state, onnx, onnx_digest, metrics)
select job, epoch, state, $3, $4, metrics from checkpoints where job = $1 and epoch = $2"""

WARM = """
insert into checkpoints (job, epoch, state, metrics)
select $4, 0, warm_state($1, (select bundle from releases where ordinal = $2), $3, state), '{}'::json
from models where job = $5 and not exists (select 1 from checkpoints where job = $4 and epoch = 0)"""

FINGERPRINT = """
select fingerprint(convert_to(string_agg(split || ' ' || id || ' ' || n || ' ' || fingerprint(labels, data), ',' order by id), 'UTF8'), ''::bytea) as digest
from {packs} where split in ('train', 'validation') and shard = $1"""

# {group} holds the distribution key, where there is one: the packs stay on their segment.
FIT = """
select (r).state, (r).rows, (r).metrics from (
  select {group}, fit($1, case when id = head then (select bundle from releases where ordinal = $2) end, case when id = head then $3 end,
    case when id = head then (select state from checkpoints where job = $4 and epoch = $5) end, labels, data order by id) r
  from {packs}, (select min(id) as head from {packs} where split = 'train' and shard = $6) first
  where split = 'train' and shard = $6 group by {group}) q"""

MERGE = """
select merge_states($1, (select bundle from releases where ordinal = $2), $3, $4, $5) as state"""

SCORE = """
select score($1, case when id = head then (select bundle from releases where ordinal = $2) end, case when id = head then $3 end,
  case when id = head then $4 end, labels, data order by id) as sums
from {packs}, (select min(id) as head from {packs} where split = 'validation' and shard = $5) first
where split = 'validation' and shard = $5 group by {group}"""

RECORD = """
insert into checkpoints (job, epoch, state, metrics) select $1, $2, $3, $4::json"""


def run(database, options, distributed=False):
    """Trains, or finds the result of the same training; returns what run_training_task returns."""
    options = check(options)
    release = one(database, RELEASE, ["text"], [options.get("app")])
    if release is None:
        raise ValueError("no release of app %r is deployed in this schema; run deploy-training-code" % options.get("app"))
    dataset = one(database, DATASET, ["text"], [options.get("dataset")])
    if dataset is None:
        raise ValueError("dataset %r is not in this schema; run upload-dataset" % options.get("dataset", "(any)"))
    given = dict(options.get("parameters", {}))
    if "epochs" in options:
        given["epochs"] = options["epochs"]
    app, manifest = json.loads(release["manifest"]), json.loads(dataset["manifest"])
    check_shards(app, manifest["shards"])
    values = parameters.resolve(app.get("parameters"), given)
    packs = one(database, PLACE, ["text"], [dataset["pack_table"]])["packs"]
    spec = {
        "input": data_of(manifest), "parameters": values, "seed": options.get("seed", 0), "shards": manifest["shards"],
        "rows": fingerprint(database, packs, manifest["shards"]),
    }  # fmt: skip
    if "start" in options:
        spec["start"] = options["start"]
    job = Job(database, release, dataset, spec, distributed)
    trained = not job.done()
    if trained:
        job.begin()
        _, best = driver.train(job, values["epochs"], values["patience"], manifest["shards"])
        job.finish(best)
    model = one(database, "select epoch, onnx_digest from models where job = $1", ["text"], [job.id])
    curve = [driver.summary(spec["input"], epoch, metrics) for epoch, metrics in job.load()]
    return {
        "job": job.id, "app": release["app"], "code_digest": release["digest"], "dataset_digest": dataset["digest"],
        "parameters": values, "seed": spec["seed"], "trained": trained, "epochs_trained": len(curve),
        "best_epoch": model["epoch"], "onnx_digest": model["onnx_digest"], "epochs": curve,
        "metrics": next((epoch for epoch in curve if epoch["epoch"] == model["epoch"]), {}),
    }  # fmt: skip


def check(options):
    """The options without nulls; ValueError with every problem."""
    if not isinstance(options, dict):
        raise ValueError("the options are %s; expected a JSON object" % json.dumps(options))
    problems = ["option %r is unknown; expected one of %s" % (name, ", ".join(OPTIONS)) for name in sorted(set(options) - set(OPTIONS))]
    options = {name: value for name, value in options.items() if value is not None}
    for name, kind in OPTIONS.items():
        if name in options and (not isinstance(options[name], kind) or isinstance(options[name], bool)):
            problems.append("option %r is %s; expected %s" % (name, json.dumps(options[name]), kind.__name__))
    if options.get("seed", 0).__class__ is int and options.get("seed", 0) < 0:
        problems.append("option 'seed' is negative; expected 0 or more")
    if problems:
        raise ValueError("\n".join(problems))
    return options


def fingerprint(database, packs, shards):
    """The digest of the rows a training reads; training.Fingerprint is the same in Go."""
    digests = [one(database, FINGERPRINT.format(packs=packs), ["int"], [shard])["digest"] for shard in range(shards)]
    if None in digests:
        raise ValueError("a shard of %s has no rows: some were deleted; drop the table and its row of datasets, then run upload-dataset again" % packs)
    return hashlib.sha256("".join(digest + "\n" for digest in digests).encode()).hexdigest()


def check_shards(app, shards):
    """ValueError when a dataset has more shards than the app's learner allows."""
    most = app.get("max_shards")
    if most is not None and shards > most:
        raise ValueError("the ML app %r says max_shards: %d, the dataset has %d shards: upload it again with --shards=%d" % (app["name"], most, shards, most))


def data_of(manifest):
    """spec["input"] of a dataset's manifest."""
    data = {"task": manifest["task"], "shape": manifest["input"]["shape"], "dtype": manifest["input"]["dtype"]}
    if manifest["input"].get("range") is not None:
        data["range"] = manifest["input"]["range"]
    if manifest.get("classes"):
        data["classes"] = manifest["classes"]
    if manifest["splits"]["train"].get("histogram"):
        data["class_counts"] = manifest["splits"]["train"]["histogram"]
    if manifest.get("statistics"):
        data["statistics"] = {name: manifest["statistics"][name] for name in ("shape", "mean", "std")}
    return data


class Job(driver.Trainer):
    """One training in the tables of the schema."""

    def __init__(self, database, release, dataset, spec, distributed=False):
        self.database, self.release, self.dataset, self.spec = database, release, dataset, spec
        self.id = parameters.job_id(release["digest"], dataset["digest"], spec["rows"], spec["parameters"], spec["seed"], spec.get("start"))
        place = one(database, PLACE, ["text"], [dataset["pack_table"]])
        self.packs = place["packs"]
        self.names = {"packs": self.packs, "group": "place, shard" if distributed else "shard"}
        self.lock(place["schema"])

    def lock(self, schema):
        name = "insitu:train:%s:%s" % (schema, self.id)
        key = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big", signed=True)
        if not one(self.database, "select pg_try_advisory_xact_lock($1) as free", ["bigint"], [key])["free"]:
            raise RuntimeError("job %.12s is being trained by another session; wait for it or stop it" % self.id)

    def text(self, **more):
        """The spec as JSON."""
        return parameters.canonical(dict(self.spec, **more))

    def code(self, **more):
        """The first three arguments of most statements: release, its ordinal, spec."""
        return [self.release["digest"], self.release["ordinal"], self.text(**more)]

    def done(self):
        return one(self.database, "select 1 as found from models where job = $1", ["text"], [self.id]) is not None

    def begin(self):
        query(self.database, JOB, ["text"] * 4, [self.id, self.release["digest"], self.dataset["digest"], self.text()])
        if "start" not in self.spec:
            query(self.database, INITIAL, ["text", "int", "text", "text"], [*self.code(), self.id])
        elif one(self.database, "select 1 as found from models where job = $1", ["text"], [self.spec["start"]]) is None:
            raise ValueError("the job to start from, %r, has no model in this schema" % self.spec["start"])
        else:
            query(self.database, WARM, ["text", "int", "text", "text", "text"], [*self.code(), self.id, self.spec["start"]])

    def load(self):
        rows = query(self.database, "select epoch, metrics from checkpoints where job = $1 and epoch > 0 order by epoch", ["text"], [self.id])
        return [(row["epoch"], json.loads(row["metrics"])) for row in rows]

    def fit(self, epoch, shard):
        types = ["text", "int", "text", "text", "int", "int"]
        part = one(self.database, FIT.format(**self.names), types, [*self.code(epoch=epoch, shard=shard), self.id, epoch - 1, shard])
        return part and (part["state"], part["rows"], json.loads(part["metrics"]))

    def merge(self, states, rows):
        return one(self.database, MERGE, ["text", "int", "text", "bytea[]", "bigint[]"], [*self.code(), states, rows])["state"]

    def score(self, state, shard):
        row = one(self.database, SCORE.format(**self.names), ["text", "int", "text", "bytea", "int"], [*self.code(), state, shard])
        return row and json.loads(row["sums"])

    def record(self, epoch, state, metrics):
        query(self.database, RECORD, ["text", "int", "bytea", "text"], [self.id, epoch, state, json.dumps(metrics)])
        self.database.notice(json.dumps(dict(driver.summary(self.spec["input"], epoch, metrics), insitu="epoch")))
        return metrics

    def finish(self, best):
        onnx = one(self.database, EXPORT, ["text", "int", "text", "text", "int"], [*self.code(), self.id, best])["onnx"]
        query(self.database, FINISH, ["text", "int", "bytea", "text"], [self.id, best, onnx, hashlib.sha256(onnx).hexdigest()])


def query(database, sql, types, args):
    """Rows of a statement with parameters."""
    return database.execute(database.prepare(sql, types), args)


def one(database, sql, types, args):
    """The first row, None when there is none."""
    rows = query(database, sql, types, args)
    return rows[0] if len(rows) else None
