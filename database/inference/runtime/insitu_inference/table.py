"""Turns rows of a table, as JSON, into examples."""

import json
import math

import numpy

from .refusal import Refused

MAX_BYTES = 32 << 20
MAX_ROWS = 10_000
LARGEST = float(numpy.finfo(numpy.float32).max)


def read(text):
    """The value of a JSON text."""
    if text is None:
        raise Refused("IS007", "there is no row: the JSON is null")
    if len(text) > MAX_BYTES:
        raise Refused("IS005", "the JSON has %d characters, the limit is %d" % (len(text), MAX_BYTES))
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:  # the server has checked the syntax, not how deep and how long numbers are
        raise Refused("IS007", "the JSON cannot be read: %s" % error) from error


def read_all(text):
    """The elements of a JSON array."""
    rows = read(text)
    if not isinstance(rows, list):
        raise Refused("IS007", "the JSON is %s; expected an array of rows" % kind(rows))
    if len(rows) > MAX_ROWS:
        raise Refused("IS005", "%d rows, the limit of one call is %d" % (len(rows), MAX_ROWS))
    return rows


def one(model, rows):
    """The example of a list of one row, which is its key as well: the order of columns does not matter."""
    found = examples(model, rows, ["the row"])
    return found, found


def many(model, numbered):
    """The examples of (number, row) pairs, which are their keys as well."""
    found = examples(model, [row for _, row in numbered], ["row %d" % number for number, _ in numbered])
    return found, found


def examples(model, rows, names):
    """The bytes of one example (the input's values in order) for each row; names are the rows' own, for errors."""
    if not rows:
        return []
    whole = model.data["dtype"] == "uint8"
    # Compared in the precision the values are kept in: 0.1 is not above 0.1.
    x = numpy.array([values(model, row, name) for row, name in zip(rows, names)], dtype=numpy.float64 if whole else numpy.float32)
    low, high = (x.dtype.type(bound) for bound in model.data.get("range") or (-LARGEST, LARGEST))
    if whole:
        low, high = max(low, 0), min(high, 255)
    for wrong, why in (((x < low) | (x > high), "is out of the input's range [%s, %s]" % (low, high)), (whole & (x != numpy.rint(x)), "is no whole number")):
        if wrong.any():
            row, at = numpy.argwhere(wrong)[0]
            raise Refused("IS007", "%s: %s %s" % (place(model, names[row], at), x[row, at], why))
    return [example.tobytes() for example in x.astype(numpy.dtype(model.data["dtype"]).newbyteorder("<"))]


def values(model, row, name):
    """The numbers of a row in the order of the input."""
    found = in_order(row, name, model.columns) if isinstance(row, dict) else row
    if not isinstance(found, list):
        raise Refused("IS007", "%s is %s; expected an object or an array" % (name, kind(row)))
    wanted = math.prod(model.data["shape"])
    if len(found) != wanted:
        raise Refused("IS007", "%s has %d values, the model takes %d" % (name, len(found), wanted))
    for at, value in enumerate(found):
        if type(value) is not float and type(value) is not int:  # a boolean is an int for isinstance
            raise Refused("IS007", "%s is %s; expected a number" % (place(model, name, at), kind(value)))
        if not -LARGEST <= value <= LARGEST:
            raise Refused("IS007", "%s: the number is out of float32's range" % place(model, name, at))
    return found


def place(model, name, at):
    return "%s, %s" % (name, "column %r" % model.columns[at] if model.columns else "value %d" % (at + 1))


def in_order(row, name, columns):
    """The values of an object in the order of the columns."""
    if not columns:
        raise Refused("IS007", "%s is an object, and the model knows no names of its input's values; expected an array" % name)
    if row.keys() != set(columns):
        hint = "its columns are " + ", ".join(columns)
        for column in row:
            if column not in columns:
                raise Refused("IS007", "%s has a column %r, which the model does not take" % (name, column), hint)
        raise Refused("IS007", "%s has no column %r" % (name, next(column for column in columns if column not in row)), hint)
    return [row[column] for column in columns]


def kind(value):
    """What a JSON value is, in words."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "a boolean"
    return {int: "a number", float: "a number", str: "a string", list: "an array"}.get(type(value), "an object")
