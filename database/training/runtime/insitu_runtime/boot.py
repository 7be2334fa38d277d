"""Turns a bundle (JSON: path to Python source) into real modules.

This file is executed on its own, before any package exists, so it imports
nothing of insitu. Every release gets a package name of its own: two releases
can live in one session.
"""

import builtins
import ctypes
import importlib
import importlib.abc
import importlib.util
import json
import os
import sys

THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
# glibc's mallopt: keep big temporaries in the process instead of returning
# them to the kernel on every mini-batch (2.4 times the speed of small models).
MALLOPT = ((-3, 32 << 20), (-1, 1 << 30), (-2, 64 << 20))  # MMAP_THRESHOLD, TRIM_THRESHOLD, TOP_PAD


class Bundle(importlib.abc.MetaPathFinder, importlib.abc.ExecutionLoader):
    """Finds and loads the modules of one bundle below one package name."""

    def __init__(self, package, files):
        self.package = package
        self.files = {path: source for path, source in files.items() if path.endswith(".py")}
        # What the app's modules may import by plain name: import layers.
        self.names = {path.split("/")[0].removesuffix(".py") for path in self.files}

    def path(self, fullname):
        """The file of a module, "" for a folder without __init__.py, None for no module of ours."""
        if fullname == self.package:
            return ""
        head, _, rest = fullname.partition(".")
        if head != self.package:
            return None
        base = rest.replace(".", "/")
        for path in (base + ".py", base + "/__init__.py"):
            if path in self.files:
                return path
        return "" if any(path.startswith(base + "/") for path in self.files) else None

    def find_spec(self, fullname, path=None, target=None):
        if self.path(fullname) is None:
            return None
        return importlib.util.spec_from_loader(fullname, self, origin=self.get_filename(fullname))

    def is_package(self, fullname):
        path = self.path(fullname)
        return path == "" or path.endswith("/__init__.py")

    def get_filename(self, fullname):
        return self.package + "/" + self.path(fullname)

    def get_source(self, fullname):
        return self.files.get(self.path(fullname), "")

    def exec_module(self, module):
        # The runtime itself imports the standard library by its names, whatever the app's files are called.
        if not self.path(module.__name__).startswith("insitu_runtime/"):
            module.__builtins__ = dict(vars(builtins), __import__=self.import_name)
        super().exec_module(module)

    def import_name(self, name, globals=None, locals=None, fromlist=(), level=0):
        head = name.partition(".")[0]
        if level or head not in self.names:
            return builtins.__import__(name, globals, locals, fromlist, level)
        module = builtins.__import__(self.package + "." + name, globals, locals, fromlist)
        return module if fromlist else sys.modules[self.package + "." + head]

    def app_frame(self, filename):
        """The app's own path of a traceback's file name; None for other files."""
        path = filename.removeprefix(self.package + "/")
        return None if path == filename or path.startswith("insitu_runtime/") else path


def tune():
    """Sets threads and malloc once per process; harmless where glibc is not the allocator."""
    if os.environ.get("INSITU_TUNED") == str(os.getpid()):
        return
    for name in THREADS:
        os.environ.setdefault(name, "1")
    try:
        mallopt = ctypes.CDLL(None).mallopt
        for option, value in MALLOPT:
            mallopt(option, value)
    except (OSError, AttributeError):
        pass
    os.environ["INSITU_TUNED"] = str(os.getpid())


def load(name, bundle, module):
    """Imports one module of a bundle (JSON text) and returns it.

    name tells bundles apart: a digest of their content.
    """
    tune()
    package = "insitu_" + name[:32]
    finder = next((f for f in sys.meta_path if getattr(f, "package", None) == package), None)
    if finder is None:
        finder = Bundle(package, json.loads(bundle))
        sys.meta_path.append(finder)
    importlib.import_module(package).bundle = finder
    return importlib.import_module(package + "." + module)
