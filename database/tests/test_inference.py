import hashlib
import io
import json

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from insitu_runtime import boot
from session import INFERENCE, RUNTIME, Session, digest_of

DATA = {"shape": [8, 8], "dtype": "uint8", "range": [0, 16]}


def load(module):
    files = {"insitu_inference/" + path.name: path.read_text("utf-8") for path in (INFERENCE / "insitu_inference").glob("*.py")}
    files.update({"insitu_runtime/" + name: (RUNTIME / "insitu_runtime" / name).read_text("utf-8") for name in ("__init__.py", "boot.py", "onnxmodel.py")})
    bundle = json.dumps(files)
    return boot.load(digest_of(bundle), bundle, "insitu_inference." + module)


picture, host = load("picture"), load("host")


def model_of(outputs=2):
    """Softmax over the sum of all pixels times 0, 1, ...: bright is the last class."""
    weights = np.tile(np.arange(outputs, dtype=np.float32) - 0.5 * (outputs - 1), (64, 1)) / 8
    bias = -weights.sum(axis=0) * 8  # half of the range
    graph = helper.make_graph(
        [helper.make_node("Cast", ["input"], ["float"], to=TensorProto.FLOAT), helper.make_node("Flatten", ["float"], ["flat"]),
         helper.make_node("Gemm", ["flat", "w", "b"], ["scores"]), helper.make_node("Softmax", ["scores"], ["probabilities"], axis=1)], "g",
        [helper.make_tensor_value_info("input", TensorProto.UINT8, ["n", 8, 8])], [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["n", outputs])],
        [numpy_helper.from_array(weights, "w"), numpy_helper.from_array(bias, "b")])  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8).SerializeToString()


class Tables(Session):
    """activations, models and model_blobs."""

    def __init__(self, manifest=None, onnx=None):
        super().__init__()
        self.onnx = model_of() if onnx is None else onnx
        self.digest = hashlib.sha256(self.onnx).hexdigest()
        self.manifest = json.dumps(manifest or {"classes": ["dark", "bright"], "input": {"range": [0, 16]}})
        self.active, self.reads = 1, 0

    def execute(self, sql, args=()):
        if sql == host.ACTIVE:
            return [{"name": "m", "version": self.active, "digest": self.digest}] if self.active else []
        if sql == host.VERSION:
            return [{"name": "m", "version": args[1], "digest": self.digest}] if args[1] < 9 else []
        self.reads += 1
        return [{"manifest": self.manifest, "onnx": self.onnx}]


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
    assert (row["label"], row["model_name"], row["model_version"]) == ("bright", "m", 1)
    probabilities = json.loads(row["probabilities"])
    assert list(probabilities) == ["dark", "bright"] and sum(probabilities.values()) == pytest.approx(1)


def test_the_label_alone():
    assert host.Host(Tables()).run_inference_task(DARK) == "dark"


def test_a_model_is_read_once_and_a_switch_is_seen_at_once():
    tables = Tables()
    h = host.Host(tables)
    assert [h.predict(DARK)["model_version"] for _ in range(3)] == [1, 1, 1]
    tables.active = 2
    assert h.predict(DARK)["model_version"] == 2
    tables.active = 1
    h.predict(DARK)
    assert tables.reads == 2


def test_a_batch_counts_from_one_across_its_parts(monkeypatch):
    monkeypatch.setattr(host, "BATCH", 2)
    rows = host.Host(Tables()).predict_batch([DARK, BRIGHT, encoded(Image.new("L", (8, 8), 255))])
    assert [(row["index"], row["label"]) for row in rows] == [(1, "dark"), (2, "bright"), (3, "bright")]


def test_an_empty_batch_is_no_rows():
    assert host.Host(Tables()).predict_batch([]) == []


def test_the_broken_image_of_a_batch_is_named():
    assert refused("IS001", host.Host(Tables()).predict_batch, [DARK, b"no image"]).startswith("image 2: ")


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


def test_classes_that_do_not_fit_the_model_are_refused():
    refused("IS004", host.Host(Tables({"classes": ["one", "two", "three"]})).predict, DARK)


def test_a_version_that_is_not_there_is_refused():
    refused("IS006", host.Host(Tables()).predict_version, "m", 9, DARK, 1)


@pytest.mark.parametrize("n", [0, 2, None, -1])
def test_a_wrong_count_is_refused(n):
    refused("IS002", host.Host(Tables()).predict_version, "m", 1, DARK, n)


def test_a_regression_is_its_number():
    row = host.Host(Tables({"input": {}}, model_of(1))).predict(DARK)
    assert (row["label"], row["probabilities"]) == ("1.0", None)


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
    raw = picture.example(encoded(Image.new("RGB", (2, 4), (255, 0, 51))), {"shape": shape, "dtype": "float32", "range": [0, 1]})
    x = np.frombuffer(raw, "<f4").reshape(shape)
    red, green, blue = (x[i] if shape[0] == 3 else x[..., i] for i in range(3))
    assert (red == 1).all() and (green == 0).all() and blue == pytest.approx(0.2)


def test_the_pictures_own_orientation_counts():
    image = Image.new("L", (8, 4))
    image.paste(255, (0, 0, 4, 4))  # left half white
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned right by a quarter
    x = np.frombuffer(picture.example(encoded(image, "PNG", exif=exif), {"shape": [8, 4], "dtype": "uint8"}), np.uint8).reshape(8, 4)
    assert (x[0] == 255).all() and (x[-1] == 0).all()


def test_raw_values_that_begin_like_a_picture_are_raw_values():
    raw = b"\xff\xd8\xff" + bytes(61)
    assert picture.example(raw, dict(DATA, range=None)) == raw


def refusal(sent, data=DATA):
    with pytest.raises(picture.Refused) as error:
        picture.example(sent, data)
    return error.value.sqlstate


def test_what_cannot_be_read_is_refused_by_kind(monkeypatch):
    png = encoded(Image.new("L", (64, 64)))
    assert refusal(b"") == refusal(None) == refusal(b"hello") == refusal(png[:60]) == "IS001"
    assert refusal(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n") == "IS001"
    assert refusal(png, {"shape": [64], "dtype": "uint8"}) == "IS002"
    assert refusal(np.float32([np.nan]).tobytes(), {"shape": [1], "dtype": "float32"}) == "IS002"
    monkeypatch.setattr(picture, "MAX_PIXELS", 1000)
    assert refusal(png) == "IS005"
    monkeypatch.setattr(picture, "MAX_BYTES", 10)
    assert refusal(png) == "IS005"
