"""The state of a learner: named numpy arrays, as bytes and merged."""

import io
import zipfile

import numpy


def encode(arrays):
    """Deterministic .npz bytes (uncompressed, no pickle) of {name: array}."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name in sorted(arrays):
            array = numpy.asanyarray(arrays[name])
            if array.dtype.hasobject:
                raise TypeError("state()[%r] holds Python objects; states are numeric arrays" % name)
            member = io.BytesIO()
            numpy.lib.format.write_array(member, array, allow_pickle=False)
            # ZipInfo's default date is 1980: same arrays, same bytes.
            archive.writestr(zipfile.ZipInfo(name + ".npy"), member.getvalue())
    return out.getvalue()


def decode(state):
    """{name: array} of encode's bytes; ValueError when they are something else."""
    try:
        with numpy.load(io.BytesIO(state), allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}
    except (OSError, ValueError, zipfile.BadZipFile, AttributeError) as error:
        raise ValueError("the state is not what encode() writes: %s" % error) from error


def average(states, rows):
    """The default merge: floats averaged by rows (summed in float64, in the order given), the rest from the first."""
    if len(states) == 1:
        return states[0]
    total = float(sum(rows))
    merged = {}
    for name, first in states[0].items():
        shapes = [state[name].shape if name in state else None for state in states]
        if any(shape != first.shape for shape in shapes):
            raise ValueError("state %r has different shapes in the shards: %s" % (name, shapes))
        if first.dtype.kind != "f":
            merged[name] = first
            continue
        mean = sum(state[name].astype(numpy.float64) * (n / total) for state, n in zip(states, rows))
        merged[name] = numpy.asarray(mean).astype(first.dtype)
    return merged
