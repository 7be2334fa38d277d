#!/usr/bin/env python3
"""Predicts files with the active model of a schema in the inference database, over psycopg 3.

A file is a picture, or the raw values of one example.
For each file there is one line of JSON on standard output, in the order of the files.

The connection is libpq's: the flags below, PGHOST, PGUSER, PGPASSWORD, PGSSLMODE and so on, or a password file.
The role needs no more than:  select "SCHEMA".grant_inference('ROLE')
"""

import argparse
import json
import pathlib
import sys

import psycopg
from psycopg import sql
from psycopg.rows import dict_row

# Exit codes, as those of Insitu's own programs.
REFUSED, USAGE, TEMPORARY = 1, 2, 75

# What the SQL functions refuse, by SQLSTATE: whether another file may do better.
FILES = {"IS001": "is no image", "IS002": "does not have the model's shape", "IS005": "is too large"}
MODELS = {"IS003": "no model is active", "IS004": "the model is corrupt or cannot be loaded"}


class ModelError(Exception):
    """No file can be predicted until somebody deploys a model."""


class FileError(Exception):
    """One file cannot be predicted."""


def parameters():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--schema", required=True, help="schema of the model in the inference database")
    for name, text in {"host": "server", "port": "its port", "dbname": "database", "user": "role"}.items():
        parser.add_argument("--" + name, help=text + "; libpq's default when left out")
    parser.add_argument("--batch", type=int, default=64, help="files predicted in one call (default: %(default)s)")
    parser.add_argument("files", nargs="+", type=pathlib.Path, metavar="FILE")
    given = parser.parse_args()
    if given.batch < 1:
        parser.error("--batch: expected at least 1")
    return given


def call(connection, schema, images):
    """The predictions of a list of images, by one version of the model.

    Values are parameters, and names are quoted identifiers: nothing a caller types becomes SQL.
    binary=True on the cursor sends the bytes as they are, and not twice as long in hexadecimal.
    """
    query = sql.SQL("select label, probabilities, model_name, model_version from {}(%b::bytea[]) order by index")
    try:
        with connection.cursor(row_factory=dict_row, binary=True) as cursor:
            return cursor.execute(query.format(sql.Identifier(schema, "predict_batch")), [images]).fetchall()
    except psycopg.Error as error:
        message = error.diag.message_primary
        if error.sqlstate in FILES:
            raise FileError("%s (%s): %s" % (FILES[error.sqlstate], error.sqlstate, message)) from error
        if error.sqlstate in MODELS:
            raise ModelError("%s (%s): %s" % (MODELS[error.sqlstate], error.sqlstate, message)) from error
        raise


def predict(connection, schema, images):
    """A prediction or a FileError for each image.

    One image that is refused refuses its whole batch, so that is asked again image by image.
    """
    try:
        return call(connection, schema, images)
    except FileError as error:
        if len(images) == 1:
            return [error]
        return [answer for image in images for answer in predict(connection, schema, [image])]


def main():
    given = parameters()
    refused = 0
    login = {name: getattr(given, name) for name in ("host", "port", "dbname", "user")}
    with psycopg.connect(autocommit=True, **{name: value for name, value in login.items() if value}) as connection:
        for start in range(0, len(given.files), given.batch):
            files = given.files[start : start + given.batch]
            for file, answer in zip(files, predict(connection, given.schema, [file.read_bytes() for file in files])):
                line = {"file": str(file)}
                if isinstance(answer, FileError):
                    refused += 1
                    line["error"] = str(answer)
                else:
                    line.update(answer)
                print(json.dumps(line, ensure_ascii=False))
    return REFUSED if refused else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except OSError as problem:  # a file
        print("psycopg_predict:", problem, file=sys.stderr)
        sys.exit(USAGE)
    except (ModelError, psycopg.OperationalError) as problem:  # deployed soon, or back soon
        print("psycopg_predict:", problem, file=sys.stderr)
        sys.exit(TEMPORARY)
    except psycopg.Error as problem:  # no such schema, no right to predict
        print("psycopg_predict:", problem, file=sys.stderr)
        sys.exit(USAGE)
