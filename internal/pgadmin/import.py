"""Brings the servers of a servers.json into pgAdmin 4, run by the Python that pgAdmin runs with.

python import.py DIRECTORY [--user NAME]: the directory is one that `insitu pgadmin servers --output` wrote.
Servers are known by group and name. Those that pgAdmin lacks are loaded by its own load_database_servers, those
that differ are changed in place, and all others are left alone. The password and certificate files are copied to
where pgAdmin looks for them.

Exit codes: 0 done; 2 something has to be set up otherwise; 75 pgAdmin is not ready yet, try again.
"""

import argparse
import builtins
import contextlib
import importlib.util
import io
import json
import os
import sys
import tempfile
from urllib.parse import quote

PERMANENT, CONFIGURATION, TEMPORARY = 1, 2, 75


def fail(code, message):
    print(message, file=sys.stderr)
    sys.exit(code)


def find_web():
    """Return the folder with pgAdmin's setup.py and config.py."""
    spec = importlib.util.find_spec("pgadmin4")
    folders = list(spec.submodule_search_locations or []) if spec else []
    folders += ["/usr/pgadmin4/web", "/pgadmin4"]  # Debian and RPM packages, pgAdmin's own image
    for folder in folders:
        if os.path.isfile(os.path.join(folder, "config.py")):
            return folder
    fail(CONFIGURATION, f"{sys.executable} has no pgAdmin 4: expected the Python that pgAdmin runs with")


def read_files(directory):
    """Return what servers.json says, and the content of the files that its servers name."""
    with open(os.path.join(directory, "servers.json"), encoding="utf-8") as f:
        wanted = json.load(f)
    files = {}
    for server in wanted["Servers"].values():
        for name in ("passfile", "sslrootcert"):
            path = server["ConnectionParameters"].get(name, "")
            if os.path.isabs(path):  # sslrootcert may be "system"
                local = os.path.join(directory, os.path.basename(path))
                with open(local, "rb") as f:
                    files[path] = f.read()
    return wanted, files


def become_owner(path):
    """Go on as the owner of pgAdmin's data: what root writes, pgAdmin could not read."""
    owner = os.stat(path)
    if os.geteuid() == 0 and owner.st_uid != 0:
        os.setgroups([])
        os.setgid(owner.st_gid)
        os.setuid(owner.st_uid)


def check_set_up(config, web):
    """Leave pgAdmin alone while it makes or upgrades its tables: its own start-up code would put the database aside."""
    from alembic.script import ScriptDirectory
    from sqlalchemy import create_engine, text
    from sqlalchemy.exc import DBAPIError

    url = config.CONFIG_DATABASE_URI or f"sqlite:///file:{quote(config.SQLITE_PATH)}?mode=ro&uri=true"
    engine = create_engine(url)
    try:
        with engine.connect() as connection:
            revision = connection.execute(text("select version_num from alembic_version")).scalar()
            version = connection.execute(text("select value from version where name = 'ConfigDB'")).scalar()
    except DBAPIError as err:
        fail(TEMPORARY, f"pgAdmin's configuration database is not ready yet: {err.orig}")
    finally:
        engine.dispose()
    from pgadmin.model import SCHEMA_VERSION

    head = ScriptDirectory(os.path.join(web, "migrations")).get_current_head()
    if revision != head or version != SCHEMA_VERSION:
        fail(TEMPORARY, f"pgAdmin's configuration database is of version {version}, {revision}; this pgAdmin has {SCHEMA_VERSION}, {head}: start it first")


def find_user(config, name):
    from pgadmin.model import User

    if name is None and not config.SERVER_MODE:
        name = config.DESKTOP_USER
    query = User.query.filter_by(active=True)
    users = (query if name is None else query.filter_by(username=name)).all()
    if len(users) == 1:
        return users[0]
    known = ", ".join(sorted(u.username for u in query.limit(20)))
    what = "has no user" if name is None else f'has {len(users) or "no"} user{"s" * (len(users) > 1)} "{name}"'
    if name is None and users:
        what = f"has {len(users)} users, name one with --user"
    fail(CONFIGURATION, f"pgAdmin {what}; it knows: {known or 'nobody'}")


def place_files(config, user, namespace, files):
    """Write the files where pgAdmin reads them, and return what its servers call them."""
    from pgadmin.utils.paths import get_storage_directory

    name = "insitu-" + namespace
    base = get_storage_directory(user) if config.SERVER_MODE else config.DATA_DIR
    folder = os.path.join(base, name)
    os.makedirs(folder, mode=0o700, exist_ok=True)
    called = {}
    for path, content in files.items():
        target = os.path.join(folder, os.path.basename(path))
        handle, temporary = tempfile.mkstemp(dir=folder)  # mode 0600: libpq ignores a password file others may read
        with os.fdopen(handle, "wb") as f:
            f.write(content)
        os.replace(temporary, target)
        # In server mode a path begins in the user's own folder.
        called[path] = f"/{name}/{os.path.basename(path)}" if config.SERVER_MODE else target
    return called


COLUMNS = {
    "Host": "host",
    "Port": "port",
    "MaintenanceDB": "maintenance_db",
    "Username": "username",
    "DBRestriction": "db_res",
    "ConnectionParameters": "connection_params",
}


def merge(user, wanted):
    """Change the servers that are there, and return the keys of those that are not."""
    from pgadmin.model import Server, ServerGroup, db

    missing = []
    for key, server in wanted["Servers"].items():
        group = ServerGroup.query.filter_by(user_id=user.id, name=server["Group"]).first()
        found = Server.query.filter_by(user_id=user.id, servergroup_id=group.id, name=server["Name"]).all() if group else []
        if not found:
            missing.append(key)
            print(f"added      {server['Name']} in {server['Group']}")
        for have in found:
            changed = []
            for name, column in COLUMNS.items():
                value = server.get(name)
                if name == "ConnectionParameters":  # parameters of the user's own stay
                    old = have.connection_params or {}
                    value = {**{k: v for k, v in old.items() if k not in ("passfile", "sslrootcert")}, **value}
                if getattr(have, column) != value:
                    setattr(have, column, value)
                    changed.append(name)
            if have.password is not None:  # a saved one goes before the password file, and may be an old one
                have.password, have.save_password = None, 0
                changed.append("saved password")
            what = "changed    " if changed else "unchanged  "
            print(f"{what}{server['Name']} in {server['Group']}{': ' * bool(changed)}{', '.join(changed)}")
    db.session.commit()
    return missing


def load(user, wanted, missing):
    """Have pgAdmin load the servers of these keys."""
    from pgadmin.utils import load_database_servers

    with tempfile.NamedTemporaryFile("w", suffix=".json") as f:
        json.dump(wanted, f)
        f.flush()
        said = io.StringIO()
        try:
            with contextlib.redirect_stdout(said):
                load_database_servers(f.name, missing, user, True)
        except SystemExit:
            fail(PERMANENT, f"pgAdmin refused the servers: {said.getvalue().strip()}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("directory", help="written by insitu pgadmin servers --output")
    parser.add_argument("--user", help="whose servers; by default the only user")
    args = parser.parse_args()
    wanted, files = read_files(args.directory)

    web = find_web()
    os.chdir(web)
    sys.path.insert(0, web)
    builtins.SERVER_MODE = {"OFF": False, "ON": True}.get(os.environ.get("PGADMIN_SERVER_MODE"))
    import config

    if not config.CONFIG_DATABASE_URI:
        if not os.path.isfile(config.SQLITE_PATH):
            mode = "server" if config.SERVER_MODE else "desktop"
            fail(TEMPORARY, f"there is no pgAdmin in {mode} mode with its data at {config.SQLITE_PATH}: it makes that file at its first start")
        become_owner(config.SQLITE_PATH)
    check_set_up(config, web)
    from pgadmin import create_app
    from sqlalchemy.exc import OperationalError

    try:
        with create_app(config.APP_NAME + "-cli").test_request_context():
            user = find_user(config, args.user)
            called = place_files(config, user, wanted["Namespace"], files)
            for server in wanted["Servers"].values():
                parameters = server["ConnectionParameters"]
                parameters.update({k: called[v] for k, v in parameters.items() if v in called})
            missing = merge(user, wanted)
            if missing:
                load(user, wanted, missing)
    except OperationalError as err:  # locked, or its first start goes on
        fail(TEMPORARY, f"pgAdmin's configuration database: {err.orig}")


if __name__ == "__main__":
    main()
