// Package database holds what runs inside the databases: SQL changesets and the Python they load.
//
// It carries files only; internal/changelog renders and deploys the SQL, internal/mlapp bundles the Python.
package database

import (
	"embed"
	"fmt"
	"io/fs"
	"path"
)

// The globs are explicit: a plain folder would silently drop files that begin with an underscore.
//
//go:embed training/*.sql training/runtime/insitu_runtime/*.py
//go:embed inference/*.sql inference/runtime/insitu_inference/*.py
var files embed.FS

// Training and Inference are folders of *.sql files, one changeset each, in the order of their names.
var (
	Training  = below("training")
	Inference = below("inference")
)

func below(folder string) fs.FS {
	sub, err := fs.Sub(files, folder)
	if err != nil { // the folder's name is not a valid path
		panic(err)
	}
	return sub
}

// Runtime is the Python that trains: source by path, "insitu_runtime/boot.py" and so on.
func Runtime() map[string]string { return sources("training/runtime", "insitu_runtime") }

// InferenceRuntime is the Python that predicts in the inference database; it shares some modules with Runtime.
func InferenceRuntime() map[string]string {
	out := sources("inference/runtime", "insitu_inference")
	for name, source := range Runtime() {
		switch path.Base(name) {
		case "__init__.py", "boot.py", "drift.py", "onnxmodel.py":
			out[name] = source
		}
	}
	return out
}

func sources(root, packageName string) map[string]string {
	names, err := fs.Glob(files, path.Join(root, packageName, "*.py"))
	if err != nil || len(names) == 0 {
		panic(fmt.Sprintf("the program was built without %s/%s: %v", root, packageName, err))
	}
	out := make(map[string]string, len(names))
	for _, name := range names {
		text, err := files.ReadFile(name)
		if err != nil {
			panic(err) // embedded files are always readable
		}
		out[packageName+"/"+path.Base(name)] = string(text)
	}
	return out
}
