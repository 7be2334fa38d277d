do language plpython3u $python$
import importlib, json, sys
packages, missing = {}, {}
for name in plpy.execute("select current_setting('insitu.python') as modules")[0]["modules"].split():
    try:
        packages[name] = str(getattr(importlib.import_module(name), "__version__", ""))
    except Exception as error:
        missing[name] = "%s: %s" % (type(error).__name__, error)
found = json.dumps({"python": sys.version.split()[0], "prefix": sys.prefix, "path": [p for p in sys.path if p], "packages": packages, "missing": missing})
plpy.execute(plpy.prepare("select set_config('insitu.python', $1, false)", ["text"]), [found])
$python$
