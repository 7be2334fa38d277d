import hashlib
import io
import json
import math

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from insitu_runtime import boot
from session import INFERENCE, RUNTIME, Session, digest_of

DATA = {"shape": [8, 8], "dtype": "uint8", "range": [0, 16], "bytes": 64}


def load(module):
    files = {"insitu_inference/" + path.name: path.read_text("utf-8") for path in (INFERENCE / "insitu_inference").glob("*.py")}
    files.update(
        {"insitu_runtime/" + name: (RUNTIME / "insitu_runtime" / name).read_text("utf-8") for name in ("__init__.py", "boot.py", "drift.py", "onnxmodel.py")}
    )
    bundle = json.dumps(files)
    return boot.load(digest_of(bundle), bundle, "insitu_inference." + module)


picture, host, table = load("picture"), load("host"), load("table")
onnxmodel = host.onnxmodel


def model_of(outputs=2, declared=None):
    """Softmax over the sum of all pixels times 0, 1, ...: bright is the last class. declared is the number of outputs that the model names, if another."""
    weights = np.tile(np.arange(outputs, dtype=np.float32) - 0.5 * (outputs - 1), (64, 1)) / 8
    bias = -weights.sum(axis=0) * 8  # half of the range
    graph = helper.make_graph(
        [helper.make_node("Cast", ["input"], ["float"], to=TensorProto.FLOAT), helper.make_node("Flatten", ["float"], ["flat"]),
         helper.make_node("Gemm", ["flat", "w", "b"], ["scores"]), helper.make_node("Softmax", ["scores"], ["probabilities"], axis=1)], "g",
        [helper.make_tensor_value_info("input", TensorProto.UINT8, ["n", 8, 8])], [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["n", declared or outputs])],
        [numpy_helper.from_array(weights, "w"), numpy_helper.from_array(bias, "b")])  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8).SerializeToString()


def linear_of(features=3):
    """The sum of the values, each times its place: a regression."""
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["input", "w"], ["probabilities"])], "g",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["n", features])], [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["n", 1])],
        [numpy_helper.from_array(np.arange(1, features + 1, dtype=np.float32).reshape(-1, 1), "w")])  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8).SerializeToString()


class Tables(Session):
    """activations, models, model_blobs, a route and a sampling when there are some; broken is a version that cannot be loaded."""

    def __init__(self, manifest=None, onnx=None, route=None, broken=None, sampling=None, profile=None):
        super().__init__()
        self.route, self.broken, self.sampling, self.profile, self.log, self.truths = route, broken, sampling, profile, [], {}
        self.onnx = model_of() if onnx is None else onnx
        self.digest = hashlib.sha256(self.onnx).hexdigest()
        self.manifest = json.dumps(manifest or {"classes": ["dark", "bright"], "input": {"range": [0, 16]}})
        self.active, self.reads = 1, 0

    def execute(self, sql, args=()):
        if sql == host.ACTIVE:
            return (
                [
                    {
                        "name": "m",
                        "version": self.active,
                        "digest": self.digest,
                        "routed": self.route and True,
                        "sampled": self.sampling and self.sampling["share"],
                    }
                ]
                if self.active
                else []
            )
        if sql == host.ROUTE:
            return [self.route]
        if sql == host.PAYLOAD:
            return [self.sampling]
        if sql == host.PROFILE:
            return [{"profile": json.dumps(self.profile)}] if self.profile else []
        if sql == host.LOG:
            self.log += json.loads(args[0])
            return []
        if sql == host.FEEDBACK:
            self.truths[args[0]] = args[1]
            return []
        if sql == host.VERSION:
            return [{"name": "m", "version": args[1], "digest": self.digest}] if args[1] < 9 else []
        self.reads += 1
        return [{"manifest": self.manifest, "onnx": b"broken" if args[1] == self.broken else self.onnx}]


def refused(sqlstate, call, *args):
    with pytest.raises(Session.Error) as error:
        call(*args)
    assert error.value.args[1]["sqlstate"] == sqlstate
    return error.value.args[0]


def encoded(image, kind="PNG", **options):
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


BRIGHT = bytes([16]) * 64
DARK = bytes(64)


def test_predict_says_label_probabilities_and_version():
    row = host.Host(Tables()).predict(BRIGHT)
    assert (row.label, row.model_name, row.model_version) == ("bright", "m", 1)
    probabilities = json.loads(row.probabilities)
    assert list(probabilities) == ["dark", "bright"] and sum(probabilities.values()) == pytest.approx(1)


def test_the_label_alone():
    assert host.Host(Tables()).run_inference_task(DARK) == "dark"


def test_a_model_is_read_once_and_a_switch_is_seen_at_once():
    tables = Tables()
    h = host.Host(tables)
    assert [h.predict(DARK).model_version for _ in range(3)] == [1, 1, 1]
    tables.active = 2
    assert h.predict(DARK).model_version == 2
    tables.active = 1
    h.predict(DARK)
    assert tables.reads == 2


def test_what_is_active_is_asked_again_in_another_snapshot():
    tables = Tables()
    h = host.Host(tables)
    assert h.predict(DARK, "7:7:").model_version == 1
    tables.active = 2
    assert h.predict(DARK, "7:7:").model_version == 1
    assert h.predict(DARK, "7:9:8").model_version == 2
    tables.active = 1
    assert h.predict(DARK).model_version == 1


def test_that_nothing_is_active_is_not_kept():
    tables = Tables()
    tables.active = None
    h = host.Host(tables)
    refused("IS003", h.predict, DARK, "7:7:")
    tables.active = 1
    assert h.predict(DARK, "7:7:").model_version == 1


def test_a_batch_counts_from_one_across_its_parts(monkeypatch):
    monkeypatch.setattr(host, "BATCH", 2)
    rows = host.Host(Tables()).predict_batch([DARK, BRIGHT, encoded(Image.new("L", (8, 8), 255))])
    assert rows.label == ["dark", "bright", "bright"]


def test_an_empty_batch_is_no_rows():
    assert host.Host(Tables()).predict_batch([]) == ([], [], [], [])


def test_the_broken_image_of_a_batch_is_named():
    assert refused("IS001", host.Host(Tables()).predict_batch, [DARK, b"no image"]).startswith("image 2: ")


def test_what_is_no_array_of_images_is_refused():
    h = host.Host(Tables())
    assert "the array is null" in refused("IS001", h.predict_batch, None)
    assert refused("IS001", h.predict_batch, [DARK, None]).startswith("image 2: ")
    assert "one dimension" in refused("IS001", h.predict_batch, [[DARK], [DARK]])


def test_no_active_model_is_refused():
    tables = Tables()
    tables.active = None
    refused("IS003", host.Host(tables).predict, DARK)


def test_a_corrupt_model_is_refused():
    tables = Tables()
    tables.onnx += b"\0"
    assert "SHA-256" in refused("IS004", host.Host(tables).predict, DARK)


def test_bytes_that_are_no_model_are_refused():
    refused("IS004", host.Host(Tables(onnx=b"no model")).predict, DARK)


def test_a_model_that_gives_another_type_is_refused():
    graph = helper.make_graph(
        [helper.make_node("Cast", ["input"], ["probabilities"], to=TensorProto.DOUBLE)], "g",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["n", 3])], [helper.make_tensor_value_info("probabilities", TensorProto.DOUBLE, ["n", 3])])  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8).SerializeToString()
    assert "expected float32" in refused("IS004", host.Host(Tables(onnx=model)).predict, DARK)


def test_many_examples_give_what_each_gives_alone():
    h = host.Host(Tables())
    examples = [bytes([i % 17]) * 64 for i in range(70)]
    together = np.frombuffer(h.predict_version("m", 1, b"".join(examples), 70), np.float32)
    alone = np.concatenate([np.frombuffer(h.predict_version("m", 1, example, 1), np.float32) for example in examples])
    np.testing.assert_allclose(together, alone, rtol=1e-6)


def test_what_was_predicted_stays_when_more_is():
    predictor = onnxmodel.Predictor(onnxmodel.open_model(model_of()))
    dark = predictor.predict(DARK, 1)
    before = dark.copy()
    assert not np.array_equal(predictor.predict(BRIGHT, 1), before)
    np.testing.assert_array_equal(dark, before)


@pytest.mark.parametrize("declared", ["m", 1, 3])
def test_what_a_model_says_of_its_outputs_need_not_be_true(declared):
    assert host.Host(Tables(onnx=model_of(declared=declared))).predict(BRIGHT).label == "bright"


def test_classes_that_do_not_fit_the_model_are_refused():
    refused("IS004", host.Host(Tables({"classes": ["one", "two", "three"]})).predict, DARK)


def test_a_version_that_is_not_there_is_refused():
    refused("IS006", host.Host(Tables()).predict_version, "m", 9, DARK, 1)


@pytest.mark.parametrize("n", [0, 2, None, -1])
def test_a_wrong_count_is_refused(n):
    refused("IS002", host.Host(Tables()).predict_version, "m", 1, DARK, n)


def test_a_regression_is_its_number():
    row = host.Host(Tables({"input": {}}, model_of(1))).predict(DARK)
    assert (row.label, row.probabilities) == ("1.0", None)


def test_a_model_whose_outputs_are_no_numbers_is_refused():
    tables = Tables({"columns": ["a", "b", "c"]}, linear_of())
    largest = float(np.finfo(np.float32).max)
    refused("IS004", host.Host(tables).predict_row, json.dumps([largest, largest, 0]))


HOUSE = {"columns": ["rooms", "age", "distance"], "input": {"range": [0, 100]}}


def test_a_row_is_taken_by_the_names_of_its_columns_or_in_order():
    h = host.Host(Tables(HOUSE, linear_of()))
    for row in ('{"distance": 3, "rooms": 1.5, "age": 2}', "[1.5, 2, 3]"):
        answer = h.predict_row(row)
        assert (answer.label, answer.probabilities, answer.model_version) == ("14.5", None, 1)


def test_the_number_of_a_regression_is_no_longer_than_it_must_be():
    assert host.Host(Tables(HOUSE, linear_of())).predict_row("[0.1, 0, 0]").label == "0.1"


def test_rows_count_from_one_across_batches(monkeypatch):
    monkeypatch.setattr(host, "BATCH", 70)  # more than ONNX Runtime gets at a time
    h = host.Host(Tables(HOUSE, linear_of()))
    rows = h.predict_rows(json.dumps([[n, 0, 0] for n in range(101)]))
    assert rows.label == ["%d.0" % n for n in range(101)]
    assert h.predict_rows("[]") == ([], [], [], [])
    assert refused("IS007", h.predict_rows, "[[1, 2, 3], [1, 2, 3], [1, 2, null]]") == "row 3, column 'distance' is null; expected a number"


@pytest.mark.parametrize(("rows", "message"), [
    (None, "there is no row"), ('{"rooms": 1}', "an object; expected an array of rows"), ("[7]", "row 1 is a number"), ("[null]", "row 1 is null"),
    ('[{"rooms": 1, "age": 2}]', "row 1 has no column 'distance'"), ('[{"rooms": 1, "age": 2, "distance": 3, "price": 4}]', "row 1 has a column 'price'"),
    ("[[1, 2]]", "row 1 has 2 values, the model takes 3"), ('[[1, 2, "3"]]', "row 1, column 'distance' is a string"), ("[[1, true, 3]]", "row 1, column 'age' is a boolean"),
    ("[[1, 2, 3], [1, 2, -0.5]]", "row 2, column 'distance': -0.5 is out of the input's range [0.0, 100.0]"), ("[[1e999, 2, 3]]", "out of float32"),
    ("[[%s, 2, 3]]" % ("9" * 400), "out of float32"), ("[[%s, 2, 3]]" % ("9" * 5000), "cannot be read"), ("[" * 100_000 + "]" * 100_000, "cannot be read"),
])  # fmt: skip
def test_a_row_that_does_not_fit_is_named(rows, message):
    assert message in refused("IS007", host.Host(Tables(HOUSE, linear_of())).predict_rows, rows)


def test_rows_are_bounded(monkeypatch):
    h = host.Host(Tables(HOUSE, linear_of()))
    assert "10001 rows" in refused("IS005", h.predict_rows, json.dumps([[1, 2, 3]] * 10_001))
    monkeypatch.setattr(table, "MAX_BYTES", 10)
    refused("IS005", h.predict_row, "[1,    2,    3]")


def test_a_model_without_columns_takes_arrays_only():
    h = host.Host(Tables())
    assert h.predict_row(json.dumps(list(BRIGHT))).label == "bright"
    assert "expected an array" in refused("IS007", h.predict_row, '{"a": 1}')
    assert "value 64: 0.5 is no whole number" in refused("IS007", h.predict_row, json.dumps([0] * 63 + [0.5]))
    assert "out of the input's range" in refused("IS007", h.predict_row, json.dumps([300] * 64))
    refused("IS004", host.Host(Tables({"columns": ["a"]})).predict, DARK)


def route(mode="shadow", share=1.0, version=2):
    return {"mode": mode, "share": share, "name": "m", "version": version}


def test_in_a_shadow_the_champion_answers_and_both_are_logged():
    tables = Tables(route=route())
    assert host.Host(tables).predict(BRIGHT).model_version == 1
    (entry,) = tables.log
    assert entry.pop("champion_probability") == entry.pop("challenger_probability") > 0.5
    digest = hashlib.sha256(BRIGHT).hexdigest()
    assert entry == {
        "mode": "shadow", "input_hash": digest, "bucket": int(digest[:12], 16) % 10_000, "answered_by": "champion", "challenger_error": None,
        "champion_name": "m", "champion_version": 1, "champion_label": "bright", "challenger_name": "m", "challenger_version": 2, "challenger_label": "bright",
    }  # fmt: skip


def test_in_a_canary_the_challenger_answers_its_share_always_the_same_inputs():
    tables = Tables(route=route("canary", 0.3))
    h = host.Host(tables)
    imgs = [bytes([n % 17, n // 17]) + bytes(62) for n in range(280)]
    first, again = h.predict_batch(imgs), [h.predict(img) for img in imgs]
    assert first.model_version == [row.model_version for row in again] and len(first.label) == 280
    theirs = first.model_version.count(2)
    assert 60 < theirs < 110
    assert len(tables.log) == 2 * theirs and all(entry["bucket"] < 3000 and entry["answered_by"] == "challenger" for entry in tables.log)


@pytest.mark.parametrize("mode", ["shadow", "canary"])
def test_a_challenger_that_fails_does_not_fail_the_caller(mode):
    for broken in ({"route": route(mode), "broken": 2}, {"route": route(mode, version=9)}):
        tables = Tables(**broken)
        rows = host.Host(tables).predict_batch([DARK, BRIGHT])
        assert (rows.label, rows.model_version) == (["dark", "bright"], [1, 1])
        assert [(entry["challenger_error"], entry["challenger_label"], entry["answered_by"]) for entry in tables.log] == [
            ("IS006" if broken["route"]["version"] == 9 else "IS004", None, "champion")
        ] * 2


def test_a_route_of_no_share_and_one_to_the_active_model_do_nothing():
    for idle in (route(share=0.0), route("canary", version=1)):
        tables = Tables(route=idle)
        assert host.Host(tables).predict(DARK).model_version == 1
        assert tables.log == [] and tables.reads == 1


PROFILE = {"features": [{"name": "mean", "edges": [4, 8, 12], "counts": [1, 1, 1, 1]}, {"name": "deviation", "edges": [1], "counts": [1, 1]}]}


def test_a_sample_keeps_bins_and_never_the_input():
    tables = Tables(sampling={"share": 1.0, "payload": False}, profile=PROFILE)
    assert host.Host(tables).predict(BRIGHT).model_version == 1
    (entry,) = tables.log
    assert entry.pop("champion_probability") > 0.5
    digest = hashlib.sha256(BRIGHT).hexdigest()
    assert entry == {
        "mode": "sample", "input_hash": digest, "bucket": int(digest[:12], 16) % 10_000, "answered_by": "champion", "bins": [3, 0], "payload": None,
        "champion_name": "m", "champion_version": 1, "champion_label": "bright",
    }  # fmt: skip


def test_a_sample_keeps_the_input_when_asked_to():
    tables = Tables(sampling={"share": 1.0, "payload": True}, profile=PROFILE)
    host.Host(tables).predict(BRIGHT)
    assert tables.log[0]["payload"] == "\\x" + BRIGHT.hex()


def test_a_sample_is_about_its_share_of_the_calls():
    tables = Tables(sampling={"share": 0.25, "payload": False}, profile=PROFILE)
    assert len(host.Host(tables).predict_batch([DARK] * 4000).label) == 4000
    assert 850 < len(tables.log) < 1150  # five deviations on either side


def test_a_prediction_that_a_route_took_too_is_one_row():
    tables = Tables(route=route(), sampling={"share": 1.0, "payload": False}, profile=PROFILE)
    host.Host(tables).predict_batch([DARK, BRIGHT])
    assert [(entry["mode"], entry["bins"], entry["challenger_version"]) for entry in tables.log] == [("shadow", [0, 0], 2), ("shadow", [3, 0], 2)]


def test_without_a_profile_a_sample_has_no_bins_until_there_is_one():
    tables = Tables(sampling={"share": 1.0, "payload": False})
    h = host.Host(tables)
    h.predict(DARK)
    tables.profile = PROFILE
    h.predict(DARK)
    assert [entry["bins"] for entry in tables.log] == [[], [0, 0]]


def test_truths_are_kept_under_the_hash_that_predictions_are_logged_by():
    tables = Tables(HOUSE, linear_of(), route=route())
    h = host.Host(tables)
    h.predict_rows('[{"distance": 3, "rooms": 1, "age": 2}]')
    h.record_row_feedback("[1, 2, 3]", "14.2")
    assert tables.truths == {tables.log[0]["input_hash"]: "14.2"}
    refused("22023", h.record_row_feedback, "[1, 2, 3]", "many")
    tables = Tables(route=route())
    h = host.Host(tables)
    h.predict(BRIGHT)
    h.record_feedback(BRIGHT, "dark")
    assert tables.truths == {tables.log[0]["input_hash"]: "dark"}
    refused("22023", h.record_feedback, BRIGHT, "grey")
    refused("22023", h.record_feedback, BRIGHT, None)
    refused("IS001", h.record_feedback, b"no image", "dark")


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "LA", "CMYK", "YCbCr", "I", "I;16", "F"])
def test_pictures_of_every_mode_are_read(mode):
    if mode == "I;16":
        image = Image.fromarray(np.full((20, 30), 65535, np.uint16))
    elif mode == "I":
        image = Image.fromarray(np.full((20, 30), 65535, np.int32))
    else:
        image = Image.new("RGB", (30, 20), "white").convert(mode)
    raw = encoded(image, {"YCbCr": "JPEG", "CMYK": "TIFF", "F": "TIFF", "I": "TIFF"}.get(mode, "PNG"))
    assert np.frombuffer(picture.example(raw, DATA), np.uint8).tolist() == [16] * 64


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "BMP", "WEBP", "TIFF", "PPM"])
def test_pictures_of_every_format_are_read(kind):
    assert picture.example(encoded(Image.new("RGB", (9, 9), "black"), kind), DATA) == DARK


def test_transparent_becomes_white():
    assert picture.example(encoded(Image.new("RGBA", (8, 8), (0, 0, 0, 0))), DATA) == BRIGHT


@pytest.mark.parametrize("shape", [[3, 4, 2], [4, 2, 3]])
def test_colours_go_where_the_input_has_them(shape):
    raw = picture.example(encoded(Image.new("RGB", (2, 4), (255, 0, 51))), {"shape": shape, "dtype": "float32", "range": [0, 1], "bytes": 4 * math.prod(shape)})
    x = np.frombuffer(raw, "<f4").reshape(shape)
    red, green, blue = (x[i] if shape[0] == 3 else x[..., i] for i in range(3))
    assert (red == 1).all() and (green == 0).all() and blue == pytest.approx(0.2)


def test_the_pictures_own_orientation_counts():
    image = Image.new("L", (8, 4))
    image.paste(255, (0, 0, 4, 4))  # left half white
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned right by a quarter
    x = np.frombuffer(picture.example(encoded(image, "PNG", exif=exif), {"shape": [8, 4], "dtype": "uint8", "bytes": 32}), np.uint8).reshape(8, 4)
    assert (x[0] == 255).all() and (x[-1] == 0).all()


def test_raw_values_that_begin_like_a_picture_are_raw_values():
    raw = b"\xff\xd8\xff" + bytes(61)
    assert picture.example(raw, dict(DATA, range=None)) == raw


def opened(sent):
    """What Pillow makes of a picture by itself."""
    with Image.open(io.BytesIO(sent)) as image:
        image.load()
        return image.mode, image.size, image.tobytes()


def noise(mode, width, height, seed=1):
    channels = len(Image.new(mode, (1, 1)).getbands())
    pixels = np.random.default_rng(seed).integers(0, 256, height * width * channels, dtype=np.uint8)
    return Image.frombytes(mode, (width, height), pixels.tobytes())


@pytest.mark.parametrize("size", [(1, 1), (32, 32), (5, 300), (120, 101)])
@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_plain_pictures_are_what_pillow_makes_of_them(mode, size):
    for level in range(10):
        sent = encoded(noise(mode, *size), compress_level=level)
        found = picture.plain(sent)
        assert (found.mode, found.size, found.tobytes()) == opened(sent)


def test_no_picture_is_plain_that_may_need_more():
    exif = Image.Exif()
    exif[0x0112] = 6
    plain = encoded(noise("L", 9, 9))
    others = [encoded(noise(mode, 9, 9)) for mode in ("RGBA", "LA")] + [
        encoded(Image.new(mode, (9, 9))) for mode in ("P", "1", "I")] + [
        encoded(noise("L", 9, 9), exif=exif), encoded(noise("L", 9, 9), transparency=3), encoded(noise("L", 9, 9), "JPEG"),
        encoded(noise("L", 9, 9), save_all=True, append_images=[noise("L", 9, 9, 2)]), plain[:40], b"", plain[:16],
        encoded(noise("L", 400, 301)),  # in several parts, which Pillow unpacks one by one
    ]  # fmt: skip
    assert picture.plain(plain) is not None
    assert [picture.plain(sent) for sent in others] == [None] * len(others)


@pytest.mark.filterwarnings("ignore")  # of Pillow, about pictures that became very large
def test_no_broken_picture_is_plain_that_pillow_reads_otherwise():
    random = np.random.default_rng(1)
    as_plain = 0
    for mode in ("L", "RGB"):
        sent = encoded(noise(mode, 7, 5))
        changed = [sent[:size] for size in range(len(sent))]
        changed += [sent[:at] + bytes([sent[at] ^ int(bits)]) + sent[at + 1 :] for at in range(len(sent)) for bits in random.integers(1, 256, 20)]
        for broken in changed:
            found = picture.plain(broken)
            if found is not None:
                as_plain += 1
                assert (found.mode, found.size, found.tobytes()) == opened(broken)
    assert as_plain > 100  # checksums that nobody looks at


def refusal(sent, data=DATA):
    with pytest.raises(picture.Refused) as error:
        picture.example(sent, data)
    return error.value.sqlstate


def test_what_cannot_be_read_is_refused_by_kind(monkeypatch):
    png = encoded(Image.new("L", (64, 64)))
    assert refusal(b"") == refusal(None) == refusal(b"hello") == refusal(png[:60]) == "IS001"
    assert refusal(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n") == "IS001"
    assert refusal(png, {"shape": [64], "dtype": "uint8", "bytes": 64}) == "IS002"
    assert refusal(np.float32([np.nan]).tobytes(), {"shape": [1], "dtype": "float32", "bytes": 4}) == "IS002"
    monkeypatch.setattr(picture, "MAX_PIXELS", 1000)
    assert refusal(png) == "IS005"
    monkeypatch.setattr(picture, "MAX_BYTES", 10)
    assert refusal(png) == "IS005"
