// Package registrytest is an MLflow server in memory, for tests of what happens when calls fail or their caller dies.
//
// It knows the calls internal/registry makes and no others; that MLflow answers the same is shown by the tests on a real server.
package registrytest

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
)

// Server is the fake. Its exported methods are safe for concurrent use.
type Server struct {
	URL string
	// Before is called with the number (from 1), method and path of each request before it is handled, After when its reply is ready.
	// An answer other than 0 becomes the reply's status. Set them before the first request; either may be nil.
	Before, After func(n int, method, path string) int

	mu          sync.Mutex
	n           int
	experiments map[string]string // id by name
	runs        []*Run
	versions    []*Version
	models      map[string]map[string]int // model -> alias -> version
	modelTags   map[string]map[string]string
	artifacts   map[string][]byte
	noStages    bool
}

// Run is a run as the server keeps it.
type Run struct {
	ID, Experiment, Name, Status string
	Tags, Params                 map[string]string
	Metrics                      map[string]float64 // by "key/step"
}

// Version is a model version as the server keeps it.
type Version struct {
	Name    string
	Version int
	RunID   string
	Source  string
	Stage   string
	Tags    map[string]string
}

// New starts a server that the test stops.
func New(t testing.TB) *Server {
	s := &Server{experiments: map[string]string{}, models: map[string]map[string]int{}, modelTags: map[string]map[string]string{}, artifacts: map[string][]byte{}}
	server := httptest.NewServer(s)
	t.Cleanup(server.Close)
	s.URL = server.URL
	return s
}

// WithoutStages makes the server one that has no stages any more.
func (s *Server) WithoutStages() *Server { s.noStages = true; return s }

// AddVersion registers a version with tags and returns its number.
func (s *Server) AddVersion(name string, tags map[string]string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.models[name] == nil {
		s.models[name], s.modelTags[name] = map[string]int{}, map[string]string{}
	}
	return s.addVersion(name, "", "", tags).Version
}

func (s *Server) addVersion(name, run, source string, tags map[string]string) *Version {
	v := &Version{Name: name, Version: 1, RunID: run, Source: source, Stage: "None", Tags: tags}
	for _, other := range s.versions {
		if other.Name == name {
			v.Version = other.Version + 1
		}
	}
	s.versions = append(s.versions, v)
	return v
}

// Runs are copies of the runs, in the order they were made.
func (s *Server) Runs() (out []Run) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, r := range s.runs {
		out = append(out, *r)
	}
	return out
}

// Versions are copies of the model versions, in the order they were made.
func (s *Server) Versions() (out []Version) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, v := range s.versions {
		c := *v
		c.Tags = map[string]string{}
		for k, t := range v.Tags {
			c.Tags[k] = t
		}
		out = append(out, c)
	}
	return out
}

// Artifacts are the names of the uploaded files, and their content.
func (s *Server) Artifacts() map[string][]byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := map[string][]byte{}
	for k, v := range s.artifacts {
		out[k] = v
	}
	return out
}

// Alias is the version that holds an alias, 0 if none does.
func (s *Server) Alias(model, alias string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.models[model][alias]
}

// ModelTags are the tags of a registered model.
func (s *Server) ModelTags(model string) map[string]string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return maps.Clone(s.modelTags[model])
}

// ForgetTag takes a tag from all models, versions and runs, as if they were from before there was that tag.
func (s *Server) ForgetTag(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, tags := range s.modelTags {
		delete(tags, name)
	}
	for _, v := range s.versions {
		delete(v.Tags, name)
	}
	for _, r := range s.runs {
		delete(r.Tags, name)
	}
}

// Requests is how many there were.
func (s *Server) Requests() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.n
}

type object = map[string]any

// failure is a reply that is not a success.
type failure struct {
	status  int
	code    string
	message string
}

func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return // the caller is gone
	}
	s.mu.Lock()
	s.n++
	n := s.n
	s.mu.Unlock()
	refuse := func(hook func(int, string, string) int) bool {
		if hook == nil {
			return false
		}
		status := hook(n, r.Method, r.URL.Path)
		if status != 0 {
			http.Error(w, "by the test", status)
		}
		return status != 0
	}
	if refuse(s.Before) {
		return
	}
	s.mu.Lock()
	reply, fail := s.handle(r, body)
	s.mu.Unlock()
	if refuse(s.After) {
		return
	}
	switch {
	case fail != nil:
		w.WriteHeader(fail.status)
		_ = json.NewEncoder(w).Encode(object{"error_code": fail.code, "message": fail.message})
	case reply == nil:
		_, _ = io.WriteString(w, "{}")
	default:
		if raw, ok := reply.([]byte); ok {
			_, _ = w.Write(raw)
			return
		}
		_ = json.NewEncoder(w).Encode(reply)
	}
}

func missing(format string, args ...any) *failure {
	return &failure{404, "RESOURCE_DOES_NOT_EXIST", fmt.Sprintf(format, args...)}
}

func invalid(format string, args ...any) *failure {
	return &failure{400, "INVALID_PARAMETER_VALUE", fmt.Sprintf(format, args...)}
}

// in is the union of all requests.
type in struct {
	Name          string   `json:"name"`
	ExperimentID  string   `json:"experiment_id"`
	RunName       string   `json:"run_name"`
	RunID         string   `json:"run_id"`
	Filter        string   `json:"filter"`
	Status        string   `json:"status"`
	Key           string   `json:"key"`
	Value         string   `json:"value"`
	Alias         string   `json:"alias"`
	Version       string   `json:"version"`
	Source        string   `json:"source"`
	Stage         string   `json:"stage"`
	Tags          []entry  `json:"tags"`
	Params        []entry  `json:"params"`
	Metrics       []point  `json:"metrics"`
	ExperimentIDs []string `json:"experiment_ids"`
}

type entry struct {
	Key   string `json:"key"`
	Value string `json:"value"`
}

type point struct {
	Key   string  `json:"key"`
	Value float64 `json:"value"`
	Step  int     `json:"step"`
}

func (s *Server) handle(r *http.Request, body []byte) (any, *failure) {
	if name, ok := strings.CutPrefix(r.URL.Path, "/api/2.0/mlflow-artifacts/artifacts/"); ok {
		if r.Method == http.MethodPut {
			s.artifacts[name] = body
			return nil, nil
		}
		if content, found := s.artifacts[name]; found {
			return content, nil
		}
		return nil, missing("no artifact %q", name)
	}
	var q in
	if len(body) > 0 {
		if err := json.Unmarshal(body, &q); err != nil {
			return nil, invalid("%v", err)
		}
	}
	get := r.URL.Query().Get
	switch path := r.Method + " " + strings.TrimPrefix(r.URL.Path, "/api/2.0/mlflow/"); path {
	case "GET experiments/get-by-name":
		if id, found := s.experiments[get("experiment_name")]; found {
			return object{"experiment": object{"experiment_id": id, "lifecycle_stage": "active"}}, nil
		}
		return nil, missing("no experiment")
	case "POST experiments/create":
		if _, found := s.experiments[q.Name]; found {
			return nil, &failure{400, "RESOURCE_ALREADY_EXISTS", "experiment exists"}
		}
		s.experiments[q.Name] = strconv.Itoa(len(s.experiments) + 1)
		return object{"experiment_id": s.experiments[q.Name]}, nil
	case "POST runs/search":
		var list []any
		for _, run := range s.runs {
			if run.Experiment == q.ExperimentIDs[0] && matches(q.Filter, run.Tags) {
				list = append(list, run.wire())
			}
		}
		return object{"runs": list}, nil
	case "POST runs/create":
		run := &Run{ID: fmt.Sprintf("run%d", len(s.runs)+1), Experiment: q.ExperimentID, Name: q.RunName, Status: "RUNNING", Tags: mapOf(q.Tags), Params: map[string]string{}, Metrics: map[string]float64{}}
		s.runs = append(s.runs, run)
		return object{"run": run.wire()}, nil
	case "GET runs/get", "POST runs/update", "POST runs/set-tag", "POST runs/log-batch":
		return s.handleRun(path, q.RunID+get("run_id"), q)
	default:
		return s.handleModel(path, q, get)
	}
}

func (s *Server) handleRun(path, id string, q in) (any, *failure) {
	for _, run := range s.runs {
		if run.ID != id {
			continue
		}
		switch path {
		case "POST runs/update":
			run.Status = q.Status
		case "POST runs/set-tag":
			run.Tags[q.Key] = q.Value
		case "POST runs/log-batch":
			for _, p := range q.Params {
				if old, found := run.Params[p.Key]; found && old != p.Value {
					return nil, invalid("parameter %q has the value %q", p.Key, old)
				}
				run.Params[p.Key] = p.Value
			}
			for _, m := range q.Metrics {
				run.Metrics[fmt.Sprintf("%s/%d", m.Key, m.Step)] = m.Value
			}
		}
		return object{"run": run.wire()}, nil
	}
	return nil, missing("no run %q", id)
}

func (s *Server) handleModel(path string, q in, get func(string) string) (any, *failure) {
	name := q.Name + get("name")
	aliases := s.models[name]
	if path == "GET model-versions/search" {
		name = between(get("filter"), "name = '", "'")
		var list []any
		for _, v := range s.versions {
			if v.Name == name && matches(get("filter"), v.Tags) {
				list = append(list, s.wire(v))
			}
		}
		return object{"model_versions": list}, nil
	}
	if path == "POST registered-models/create" {
		if aliases != nil {
			return nil, &failure{400, "RESOURCE_ALREADY_EXISTS", "model exists"}
		}
		s.models[name], s.modelTags[name] = map[string]int{}, mapOf(q.Tags)
		return nil, nil
	}
	if aliases == nil {
		return nil, missing("no model %q", name)
	}
	switch path {
	case "GET registered-models/get":
		return object{"registered_model": object{"name": name, "tags": entries(s.modelTags[name])}}, nil
	case "POST registered-models/set-tag":
		s.modelTags[name][q.Key] = q.Value
		return nil, nil
	case "POST model-versions/create":
		return object{"model_version": s.wire(s.addVersion(name, q.RunID, q.Source, mapOf(q.Tags)))}, nil
	case "DELETE registered-models/alias":
		delete(aliases, q.Alias)
		return nil, nil
	case "POST model-versions/transition-stage":
		if s.noStages {
			return nil, &failure{404, "ENDPOINT_NOT_FOUND", "no such endpoint"}
		}
	}
	number, _ := strconv.Atoi(q.Version + get("version"))
	if path == "GET registered-models/alias" {
		if number = aliases[get("alias")]; number == 0 {
			return nil, invalid("alias %q not found", get("alias"))
		}
	}
	for _, v := range s.versions {
		if v.Name != name || v.Version != number {
			continue
		}
		switch path {
		case "POST registered-models/alias":
			aliases[q.Alias] = number
		case "POST model-versions/set-tag":
			v.Tags[q.Key] = q.Value
		case "POST model-versions/transition-stage":
			for _, other := range s.versions {
				if other.Name == name && other.Stage == q.Stage {
					other.Stage = "Archived"
				}
			}
			v.Stage = q.Stage
		}
		return object{"model_version": s.wire(v)}, nil
	}
	return nil, missing("no version %d of model %q", number, name)
}

func (r *Run) wire() object {
	return object{
		"info": object{"run_id": r.ID, "experiment_id": r.Experiment, "run_name": r.Name, "status": r.Status, "artifact_uri": "mlflow-artifacts:/" + r.Experiment + "/" + r.ID + "/artifacts"},
		"data": object{"tags": entries(r.Tags), "params": entries(r.Params)},
	}
}

func (s *Server) wire(v *Version) object {
	out := object{"name": v.Name, "version": strconv.Itoa(v.Version), "run_id": v.RunID, "source": v.Source, "status": "READY", "tags": entries(v.Tags)}
	if !s.noStages {
		out["current_stage"] = v.Stage
	}
	return out
}

func mapOf(list []entry) map[string]string {
	out := map[string]string{}
	for _, e := range list {
		out[e.Key] = e.Value
	}
	return out
}

func entries(m map[string]string) []entry {
	out := []entry{}
	for k, v := range m {
		out = append(out, entry{k, v})
	}
	return out
}

// matches applies the tag terms of a search expression.
func matches(filter string, tags map[string]string) bool {
	for _, term := range regexp.MustCompile("tags.`([^`]+)` = '([^']*)'").FindAllStringSubmatch(filter, -1) {
		if tags[term[1]] != term[2] {
			return false
		}
	}
	return true
}

func between(text, before, after string) string {
	_, rest, _ := strings.Cut(text, before)
	inside, _, _ := strings.Cut(rest, after)
	return inside
}
