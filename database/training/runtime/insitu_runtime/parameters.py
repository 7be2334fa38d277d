"""Hyper-parameters: their check against the manifest, and the job id; the Go side is internal/mlapp."""

import hashlib
import json
import math

MAX_INT = 2**53 - 1
ALWAYS = {"epochs": {"type": "int", "default": 10, "min": 1}, "patience": {"type": "int", "default": 0, "min": 0}}


def resolve(declared, given):
    """The given values, checked, and the defaults of the others; ValueError with every problem."""
    declared = {**ALWAYS, **(declared or {})}
    problems = ["parameter %r is not declared; expected one of %s" % (name, ", ".join(sorted(declared))) for name in sorted(set(given) - set(declared))]
    values = {}
    for name, rule in sorted(declared.items()):
        try:
            values[name] = check(rule, given.get(name, rule["default"]))
        except ValueError as error:
            problems.append("parameter %r: %s" % (name, error))
    if problems:
        raise ValueError("\n".join(problems))
    return values


def check(rule, value):
    """value in the rule's type; ValueError when it breaks the rule."""
    value = typed(rule["type"], value)
    choices = rule.get("enum")
    if choices and value not in [typed(rule["type"], choice) for choice in choices]:
        raise ValueError("%r is none of %s" % (value, choices))
    if rule["type"] in ("int", "float"):
        if rule.get("min") is not None and value < rule["min"]:
            raise ValueError("%r is less than %r" % (value, rule["min"]))
        if rule.get("max") is not None and value > rule["max"]:
            raise ValueError("%r is more than %r" % (value, rule["max"]))
    return value


def typed(kind, value):
    number = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    if (kind == "string" and isinstance(value, str)) or (kind == "bool" and isinstance(value, bool)):
        return value
    if kind == "int" and number and value == int(value) and abs(value) <= MAX_INT:
        return int(value)
    if kind == "float" and number:
        return float(value)
    raise ValueError("%r is no %s" % (value, kind))


def canonical(value):
    """JSON with sorted keys, no spaces and ECMAScript's numbers: the same text as Go writes."""
    if isinstance(value, dict):
        return "{" + ",".join(canonical(key) + ":" + canonical(value[key]) for key in sorted(value)) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ",".join(map(canonical, value)) + "]"
    if isinstance(value, float):
        return decimal(value)
    text = json.dumps(value, ensure_ascii=False)
    # Go escapes JavaScript's two other line ends.
    return text.replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


def decimal(number):
    """A finite float as ECMAScript writes it: shortest digits, exponents below 1e-6 and from 1e21."""
    if number == 0:
        return "0"
    sign, (mantissa, _, exponent) = "-" * (number < 0), repr(abs(number)).partition("e")
    whole, _, fraction = mantissa.partition(".")
    digits = (whole + fraction).lstrip("0")
    # The number is 0.digits times ten to the point.
    point = len(whole.lstrip("0")) + int(exponent or 0) if whole.strip("0") else int(exponent or 0) - (len(fraction) - len(fraction.lstrip("0")))
    digits = digits.rstrip("0")
    if -6 < point <= 21:
        if point <= 0:
            return sign + "0." + "0" * -point + digits
        return sign + digits.ljust(point, "0")[:point] + ("." + digits[point:] if len(digits) > point else "")
    exponent = point - 1
    return sign + digits[0] + ("." + digits[1:] if len(digits) > 1 else "") + "e" + ("+" if exponent > 0 else "-") + str(abs(exponent))


def job_id(code, dataset, rows, parameters, seed, start=None):
    """The id of a training; database/README.md defines it."""
    spec = {"parameters": parameters, "seed": seed}
    if start:
        spec["start"] = start
    text = canonical({"code": code, "dataset": dataset, "rows": rows, "spec": spec})
    return hashlib.sha256(text.encode()).hexdigest()
