package localrun

import (
	"fmt"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	wfv1 "github.com/argoproj/argo-workflows/v3/pkg/apis/workflow/v1alpha1"
)

// sandbox is the directory that stands for one container's file system during one attempt.
// A process cannot be given a /tmp of its own without privileges, so paths written in the template
// (mount paths, output files) become paths below the sandbox wherever its arguments and environment name them.
// Values that come in by parameters are left as they are.
type sandbox struct {
	dir   string
	paths map[string]string // container path -> path here
}

// newSandbox makes the directories of a container. t is the template as written, given are the input artifacts there are.
func newSandbox(dir string, t *wfv1.Template, mounts map[string]string, given map[string]artifact) (*sandbox, error) {
	s := &sandbox{dir: dir, paths: maps.Clone(mounts)}
	if s.paths == nil {
		s.paths = map[string]string{}
	}
	for _, m := range t.Container.VolumeMounts {
		if _, mounted := mapPath(m.MountPath, mounts); mounted {
			continue
		}
		s.paths[path.Clean(m.MountPath)] = filepath.Join(dir, "volumes", m.Name)
	}
	var files []string
	for _, p := range t.Outputs.Parameters {
		files = append(files, p.ValueFrom.Path)
	}
	for _, a := range t.Outputs.Artifacts {
		files = append(files, a.Path)
	}
	for _, a := range t.Inputs.Artifacts {
		if _, there := given[a.Name]; there {
			files = append(files, a.Path)
		}
	}
	for _, file := range files {
		parent := path.Dir(file)
		if _, ok := mapPath(parent, s.paths); !ok {
			s.paths[parent] = filepath.Join(dir, "root", filepath.FromSlash(parent))
		}
		here, _ := mapPath(parent, s.paths)
		if err := os.MkdirAll(here, 0o755); err != nil {
			return nil, fmt.Errorf("make sandbox: %w", err)
		}
	}
	for _, here := range append(slices.Collect(maps.Values(s.paths)), s.tmp(), s.home()) {
		if err := os.MkdirAll(here, 0o755); err != nil {
			return nil, fmt.Errorf("make sandbox: %w", err)
		}
	}
	return s, nil
}

func (s *sandbox) tmp() string      { return filepath.Join(s.dir, "tmp") }
func (s *sandbox) home() string     { return filepath.Join(s.dir, "home") }
func (s *sandbox) progress() string { return filepath.Join(s.dir, "progress") }

// here is the path on this machine of a path in the container.
func (s *sandbox) here(containerPath string) string {
	out, _ := mapPath(containerPath, s.paths)
	return out
}

// words replaces container paths in texts. written are the same texts before parameters were filled in:
// a text with a parameter in it is the user's, and stays.
func (s *sandbox) words(texts, written []string) []string {
	out := slices.Clone(texts)
	for i := range out {
		if strings.Contains(written[i], "{{") {
			continue
		}
		if here, ok := mapPath(out[i], s.paths); ok {
			out[i] = here
		}
	}
	return out
}

// env is the container's environment: base, the sandbox's places, then the template's.
func (s *sandbox) env(base []string, t, written *wfv1.Template) []string {
	out := append(slices.Clone(base), "HOME="+s.home(), "TMPDIR="+s.tmp(), "ARGO_PROGRESS_FILE="+s.progress())
	for i, e := range t.Container.Env {
		value := s.words([]string{e.Value}, []string{written.Container.Env[i].Value})[0]
		out = append(out, e.Name+"="+value)
	}
	return out
}

// mapPath replaces the longest of the given prefixes of an absolute path.
func mapPath(p string, prefixes map[string]string) (string, bool) {
	if !path.IsAbs(p) {
		return "", false
	}
	p = path.Clean(p)
	best := ""
	for prefix := range prefixes {
		if clean := path.Clean(prefix); (p == clean || strings.HasPrefix(p, strings.TrimSuffix(clean, "/")+"/")) && len(prefix) > len(best) {
			best = prefix
		}
	}
	if best == "" {
		return "", false
	}
	return filepath.Join(prefixes[best], strings.TrimPrefix(p, path.Clean(best))), true
}
