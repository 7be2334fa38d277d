"""Turns what a caller sends (raw values, or an encoded picture) into one example."""

import io
import math
import struct
import zlib

import numpy

from .refusal import Refused

MAX_BYTES = 32 << 20
MAX_PIXELS = 40_000_000
# Formats that Pillow decodes by itself: EPS, for one, would start another program.
FORMATS = ("PNG", "JPEG", "GIF", "BMP", "WEBP", "TIFF", "PPM")
ORIENTATION = 0x0112  # the tag of EXIF; exif_transpose copies every picture, also those that have none
# A PNG of one chunk of pixels: magic, length and name of the header, what the header says and its checksum, length and name of the pixels.
HEADER = struct.Struct(">16sII5sII4s")
PNG = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR"
PLAIN = {b"\x08\x00\0\0\0": "L", b"\x08\x02\0\0\0": "RGB"}  # bits and colours; known compression and filter, not interlaced
END = b"\0\0\0\0IEND"
AT_ONCE = 65536  # bytes that Pillow unpacks at a time
MAGIC = (PNG[:8], b"\xff\xd8\xff", b"GIF87a", b"GIF89a", b"RIFF")


def one(model, imgs):
    """The example of a list of one image, and its key: what was sent."""
    return [example(imgs[0], model.data)], imgs


def many(model, numbered):
    """The examples of (number, image) pairs, and their keys."""
    examples, keys = [], []
    for number, img in numbered:
        try:
            examples.append(example(img, model.data))
        except Refused as error:
            raise Refused(error.sqlstate, "image %d: %s" % (number, error)) from error
        keys.append(img)
    return examples, keys


def example(sent, data):
    """The bytes of one example (C order, the input's dtype) for the bytes of a raw example or of a picture."""
    if sent is None or len(sent) == 0:
        raise Refused("IS001", "there is no image: the bytes are empty")
    if not isinstance(sent, bytes):
        raise Refused("IS001", "there is an array in place of an image; expected an array of one dimension")
    if len(sent) > MAX_BYTES:
        raise Refused("IS005", "the image has %d bytes, the limit is %d" % (len(sent), MAX_BYTES))
    if len(sent) != data["bytes"]:
        return decode(sent, data)
    if not sent.startswith(MAGIC):
        return values(sent, data)
    try:  # as many bytes as a raw example has, and they begin like a picture
        return decode(sent, data)
    except Refused:
        return values(sent, data)


def values(sent, data):
    """A raw example, checked to be finite."""
    if data["dtype"] == "float32" and not numpy.isfinite(numpy.frombuffer(sent, "<f4")).all():
        raise Refused("IS002", "the values are not all finite numbers")
    return sent


def layout(shape):
    """(height, width, channels, axis of the channels or None) of an input that is a picture."""
    if len(shape) == 2:
        return shape[0], shape[1], 1, None
    if len(shape) == 3 and shape[0] in (1, 3):
        return shape[1], shape[2], shape[0], 0
    if len(shape) == 3 and shape[2] in (1, 3):
        return shape[0], shape[1], shape[2], 2
    raise Refused("IS002", "the model's input %s is no picture; send its %d raw values, or columns to predict_row" % (list(shape), math.prod(shape)))


def decode(sent, data):
    """An encoded picture of any mode and size, scaled to the input's shape and range."""
    height, width, channels, axis = layout(data["shape"])
    mode = "RGB" if channels == 3 else "L"
    picture = plain(sent)
    if picture is None:
        picture = opened(sent, mode, data)
    elif picture.mode != mode:
        picture = picture.convert(mode)
    if picture.size != (width, height):
        from PIL import Image

        picture = picture.resize((width, height), Image.Resampling.BILINEAR)
    low, high = data.get("range") or (0, 255)
    pixels = numpy.frombuffer(picture.tobytes(), numpy.uint8)
    if axis == 0:
        pixels = pixels.reshape(height, width, channels).transpose(2, 0, 1)
    if (low, high) != (0, 255):
        pixels = pixels.astype(numpy.float32) / 255 * (high - low) + low
        if data["dtype"] == "uint8":
            pixels = numpy.rint(pixels)
    return numpy.ascontiguousarray(pixels, dtype=numpy.dtype(data["dtype"]).newbyteorder("<")).tobytes()


def plain(sent):
    """The picture of a PNG that is pixels and nothing else: 8-bit RGB or grey; None for every other file, and for broken ones.

    Of a small file Pillow's search for what else it may hold takes longer than the pixels, which the same code unpacks here.
    """
    from PIL import Image

    if len(sent) < HEADER.size:
        return None
    start, width, height, kind, checksum, size, name = HEADER.unpack_from(sent)
    end = HEADER.size + size
    if start != PNG or kind not in PLAIN or checksum != zlib.crc32(sent[12:29]) or name != b"IDAT" or sent[end + 4 : end + 12] != END:
        return None
    if size > AT_ONCE or width * height > MAX_PIXELS:
        return None
    try:
        return Image.frombytes(PLAIN[kind], (width, height), sent[HEADER.size : end], "zip", PLAIN[kind], 0)
    except (ValueError, MemoryError):  # the long way says what is wrong
        return None


def opened(sent, mode, data):
    """The picture of any file that Pillow reads, flattened to the mode; Refused for what it cannot read."""
    from PIL import Image, ImageOps, UnidentifiedImageError

    try:
        picture = Image.open(io.BytesIO(sent), formats=FORMATS)
        if picture.width * picture.height > MAX_PIXELS:
            raise Refused("IS005", "the image has %d x %d pixels, the limit is %d" % (picture.width, picture.height, MAX_PIXELS))
        picture.load()
        if picture.getexif().get(ORIENTATION, 1) != 1:
            picture = ImageOps.exif_transpose(picture)
        return flatten(picture, mode)
    except Refused:
        raise
    except Image.DecompressionBombError as error:
        raise Refused("IS005", "the image is too large: %s" % error) from error
    except UnidentifiedImageError as error:
        raise Refused("IS001", "the bytes are neither an image (%s) nor the input's %d raw bytes" % (", ".join(FORMATS), data["bytes"])) from error
    except Exception as error:  # Pillow raises OSError, ValueError, SyntaxError, struct.error and more for broken files
        raise Refused("IS001", "the image cannot be read: %s: %s" % (type(error).__name__, error)) from error


def flatten(picture, mode):
    """The picture as 8-bit RGB or grey; transparent parts become white, deeper samples are scaled."""
    from PIL import Image

    if picture.mode in ("I", "F") or picture.mode.startswith("I;"):
        samples = numpy.asarray(picture, dtype=numpy.float64)
        top = 255 if samples.max() <= 255 and picture.mode == "F" else 65535
        picture = Image.fromarray(numpy.clip(samples * (255 / top), 0, 255).astype(numpy.uint8))
    if "transparency" in picture.info or picture.mode in ("RGBA", "LA", "PA", "RGBa", "La"):
        picture = picture.convert("RGBA")
        white = Image.new("RGBA", picture.size, (255, 255, 255, 255))
        picture = Image.alpha_composite(white, picture)
    return picture if picture.mode == mode else picture.convert(mode)
