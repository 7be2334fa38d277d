#!/usr/bin/env python3
"""Predicts the rows of a table in the inference database with the active model, over GreenplumPython.

A column of the table holds the images, or the raw values of one example each, as bytea.
They stay in the database: what travels is the prediction, one line of JSON a row, in the order of the id.

The connection is libpq's: the flags below, PGHOST, PGUSER, PGPASSWORD, PGSSLMODE and so on, or a password file.
The role needs to read the table, and:  select "SCHEMA".grant_inference('ROLE')
"""

import argparse
import json
import sys

import greenplumpython as gp
import psycopg2
from psycopg2.extensions import make_dsn

# Exit codes, as those of Insitu's own programs.
REFUSED, USAGE, TEMPORARY = 1, 2, 75


def name(text):
    """GreenplumPython puts names between double quotes as they are, so a name with one could end there and go on as SQL."""
    if not text or '"' in text or "\0" in text:
        raise argparse.ArgumentTypeError("expected a name without double quotes, found %r" % text)
    return text


def parameters():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--schema", required=True, type=name, help="schema of the model in the inference database")
    parser.add_argument("--table", required=True, type=name, help="table or view with the rows")
    parser.add_argument("--table-schema", type=name, help="its schema; the search path's when left out")
    parser.add_argument("--id", default="id", type=name, help="column that tells rows apart (default: %(default)s)")
    parser.add_argument("--column", default="image", type=name, help="column with what is predicted (default: %(default)s)")
    for flag, text in {"host": "server", "port": "its port", "dbname": "database", "user": "role"}.items():
        parser.add_argument("--" + flag, help=text + "; libpq's default when left out")
    return parser.parse_args()


def predictions(database, given):
    """A dataframe of id and prediction. It is a query until somebody iterates over it.

    One JSON value holds all fields of a prediction: asked for apart, each field would predict the image again.
    """
    predict, as_json = gp.function("predict", schema=given.schema), gp.function("row_to_json", schema="pg_catalog")
    rows = database.create_dataframe(table_name=given.table, schema=given.table_schema)
    predicted = rows.assign(prediction=lambda row: as_json(predict(row[given.column])))
    return predicted[[given.id, "prediction"]].order_by(given.id)[:]


def main():
    given = parameters()
    login = {flag: getattr(given, flag) for flag in ("host", "port", "dbname", "user")}
    # make_dsn quotes the values; GreenplumPython's own params are joined as they are.
    dsn = make_dsn("", **{flag: value for flag, value in login.items() if value})
    database = gp.database(uri=dsn)
    try:
        for row in predictions(database, given):
            print(json.dumps({"id": row[given.id], **row["prediction"]}, ensure_ascii=False))
    finally:
        database.close()
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except psycopg2.OperationalError as problem:
        print("greenplumpython_predict:", problem, file=sys.stderr)
        sys.exit(TEMPORARY)
    except psycopg2.Error as problem:
        # IS001, IS002 and IS005 refuse a row, IS003 and IS004 are about the model: database/README.md lists them.
        print("greenplumpython_predict: %s: %s" % (problem.pgcode, problem), file=sys.stderr)
        refused = {"IS001": REFUSED, "IS002": REFUSED, "IS005": REFUSED, "IS003": TEMPORARY, "IS004": TEMPORARY}
        sys.exit(refused.get(problem.pgcode, USAGE))
