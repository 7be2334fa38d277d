import io
import json
import struct

import pytest

from insitu_runtime import inmemory
from session import EXAMPLES, LEARNER, bundle_of, host_of, packs_of


def copy_of(packs):
    """The stream of COPY ... (format binary) for packs."""
    out = io.BytesIO()
    out.write(b"PGCOPY\n\xff\r\n\0" + struct.pack("!iI", 0, 0))
    for split, shard, number, n, labels, data in packs:
        out.write(struct.pack("!h", 6))
        for value in (split.encode(), struct.pack("!i", shard), struct.pack("!q", number), struct.pack("!i", n), labels, data):
            out.write(struct.pack("!i", len(value)) + value)
    out.write(struct.pack("!h", -1))
    return out.getvalue()


def test_a_copy_stream_is_read():
    assert inmemory.read_packs(io.BytesIO(copy_of(packs_of()))) == packs_of()


@pytest.mark.parametrize(
    ("spoil", "message"),
    [(lambda raw: b"split,shard\n", "no binary COPY"), (lambda raw: raw[:-1], "truncated"), (lambda raw: raw[:30], "truncated"), (lambda raw: raw[:19] + struct.pack("!h", 5) + raw[21:], "5 columns"),
     (lambda raw: raw[:21] + struct.pack("!i", -1) + raw[25:], "null")],
)  # fmt: skip
def test_other_streams_are_refused(spoil, message):
    with pytest.raises(ValueError, match=message):
        inmemory.read_packs(io.BytesIO(spoil(copy_of(packs_of()))))


@pytest.fixture
def app(tmp_path):
    (tmp_path / "learner.py").write_text(LEARNER)
    (tmp_path / "test_learner.py").write_text("raise SystemExit")
    return tmp_path


def in_the_database(spec, packs, epochs, shards):
    """The same training by the functions that the SQL calls."""
    host = host_of(bundle_of(learner=LEARNER))
    states = [host.init_state(json.dumps(spec))]
    for epoch in range(1, epochs + 1):
        parts = []
        for shard in range(shards):
            token = None
            for pack in sorted(packs, key=lambda pack: pack[2]):
                if pack[0] == "train" and pack[1] == shard:
                    token = host.fit_step(token, json.dumps(dict(spec, epoch=epoch, shard=shard, shards=shards)), states[-1], pack[4], pack[5])
            parts.append(host.fit_result(token))
        states.append(host.merge_states(json.dumps(spec), [p["state"] for p in parts], [p["rows"] for p in parts]))
    return states


@pytest.mark.parametrize("shards", [1, 2])
def test_training_in_memory_gives_the_same_bits(app, spec, shards):
    packs = packs_of(rows=120, shards=shards)
    _, states = inmemory.train(app, list(reversed(packs)), spec)
    assert states == in_the_database(spec, packs, 3, shards)


def test_the_command_prints_json(app, spec, tmp_path, capsys):
    file = tmp_path / "packs"
    file.write_bytes(copy_of(packs_of()))
    inmemory.main(["--app", str(app), "--packs", str(file), "--spec", json.dumps(spec), "--epochs", "2"])
    result = json.loads(capsys.readouterr().out)
    assert len(result["epochs"]) == 2 and len(result["states_sha256"]) == 3
    assert result["states_sha256"][result["best_epoch"]] == result["state_sha256"]
    assert 0 <= result["test_accuracy"] <= 1


def test_the_bundle_leaves_tests_out(app):
    names = set(json.loads(inmemory.bundle_of(app)))
    assert "learner.py" in names and "test_learner.py" not in names
    assert {"insitu_runtime/__init__.py", "insitu_runtime/boot.py"} < names


def test_the_digits_example_loads():
    pytest.importorskip("onnx")
    files = json.loads(inmemory.bundle_of(EXAMPLES / "digits"))
    assert "class Learner" in files["learner.py"]
