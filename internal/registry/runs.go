package registry

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math"
	"net/http"
	"net/url"
	"slices"
	"time"

	"github.com/insitu-ml/insitu/internal/fault"
)

// The statuses of a run.
const (
	Running  = "RUNNING"
	Finished = "FINISHED"
	Failed   = "FAILED"
	Killed   = "KILLED"
)

// Limits of one log-batch call, and of one parameter's value, as the server states them.
const (
	maxBatchMetrics = 1000
	maxBatchParams  = 100
	maxParamValue   = 6000
)

// Run is one MLflow run.
type Run struct {
	ID, ExperimentID, Name, Status string
	ArtifactURI                    string
	Tags, Params                   map[string]string
	Metrics                        map[string]float64 // the latest value of each
	Started                        time.Time
}

// Metric is one point of a learning curve. MLflow has no place for NaN and infinity in JSON: they are left out.
type Metric struct {
	Key   string
	Value float64
	Step  int64
	Time  time.Time // zero means now
}

type wireRun struct {
	Info struct {
		RunID        string `json:"run_id"`
		ExperimentID string `json:"experiment_id"`
		RunName      string `json:"run_name"`
		Status       string `json:"status"`
		ArtifactURI  string `json:"artifact_uri"`
		StartTime    int64  `json:"start_time"`
	} `json:"info"`
	Data struct {
		Tags    []pair `json:"tags"`
		Params  []pair `json:"params"`
		Metrics []struct {
			Key   string          `json:"key"`
			Value json.RawMessage `json:"value"` // a number, or "NaN", "Infinity"
		} `json:"metrics"`
	} `json:"data"`
}

func (w wireRun) run() Run {
	r := Run{
		ID: w.Info.RunID, ExperimentID: w.Info.ExperimentID, Name: w.Info.RunName, Status: w.Info.Status,
		ArtifactURI: w.Info.ArtifactURI, Started: time.UnixMilli(w.Info.StartTime).UTC(),
		Tags: unpair(w.Data.Tags), Params: unpair(w.Data.Params), Metrics: map[string]float64{},
	}
	for _, m := range w.Data.Metrics {
		var v float64
		if json.Unmarshal(m.Value, &v) == nil {
			r.Metrics[m.Key] = v
		}
	}
	return r
}

// EnsureExperiment returns the id of the experiment of that name; it creates it unless it exists.
func (c *Client) EnsureExperiment(ctx context.Context, name string) (string, error) {
	return ensure(ctx, c, func() (string, bool, error) {
		var out struct {
			Experiment struct {
				ID    string `json:"experiment_id"`
				Stage string `json:"lifecycle_stage"`
			} `json:"experiment"`
		}
		err := c.call(ctx, fmt.Sprintf("look for experiment %q", name), http.MethodGet, "experiments/get-by-name", url.Values{"experiment_name": {name}}, &out)
		switch {
		case errors.Is(err, ErrNotFound):
			return "", false, nil
		case err != nil:
			return "", false, err
		case out.Experiment.Stage == "deleted":
			return "", false, fault.AsConfiguration(fmt.Errorf("experiment %q is deleted in MLflow; restore it or choose another name", name))
		}
		return out.Experiment.ID, true, nil
	}, func() (string, error) {
		var out struct {
			ID string `json:"experiment_id"`
		}
		err := c.json(ctx, request{doing: fmt.Sprintf("create experiment %q", name), method: http.MethodPost, path: "experiments/create", once: true},
			map[string]any{"name": name}, &out)
		return out.ID, err
	})
}

// SearchRuns returns the runs of an experiment that carry all tags, the oldest first.
func (c *Client) SearchRuns(ctx context.Context, experimentID string, tags map[string]string) ([]Run, error) {
	filter, err := tagFilter(tags)
	if err != nil {
		return nil, err
	}
	var runs []Run
	for token := ""; ; {
		var out struct {
			Runs  []wireRun `json:"runs"`
			Token string    `json:"next_page_token"`
		}
		err := c.call(ctx, fmt.Sprintf("search runs with %s", filter), http.MethodPost, "runs/search", map[string]any{
			"experiment_ids": []string{experimentID}, "filter": filter, "max_results": pageSize,
			"order_by": []string{"attributes.start_time ASC"}, "page_token": token,
		}, &out)
		if err != nil {
			return nil, err
		}
		for _, w := range out.Runs {
			runs = append(runs, w.run())
		}
		if token = out.Token; token == "" {
			return runs, nil
		}
	}
}

// GetRun returns one run; ErrNotFound if there is none.
func (c *Client) GetRun(ctx context.Context, id string) (Run, error) {
	var out struct {
		Run wireRun `json:"run"`
	}
	err := c.call(ctx, fmt.Sprintf("get run %q", id), http.MethodGet, "runs/get", url.Values{"run_id": {id}}, &out)
	return out.Run.run(), err
}

// EnsureRun returns the oldest run of the experiment whose tags of the given keys have the values in tags;
// it creates one with all tags unless there is one.
func (c *Client) EnsureRun(ctx context.Context, experimentID, name string, tags map[string]string, keys ...string) (Run, error) {
	wanted := map[string]string{}
	for _, key := range keys {
		wanted[key] = tags[key]
	}
	return ensure(ctx, c, func() (Run, bool, error) {
		runs, err := c.SearchRuns(ctx, experimentID, wanted)
		if err != nil || len(runs) == 0 {
			return Run{}, false, err
		}
		return runs[0], true, nil
	}, func() (Run, error) {
		var out struct {
			Run wireRun `json:"run"`
		}
		err := c.json(ctx, request{doing: fmt.Sprintf("create run %q", name), method: http.MethodPost, path: "runs/create", once: true}, map[string]any{
			"experiment_id": experimentID, "run_name": name, "start_time": time.Now().UnixMilli(), "tags": pairs(tags),
		}, &out)
		return out.Run.run(), err
	})
}

// UpdateRun sets a run's status. Finished, Failed and Killed also set its end time to now.
func (c *Client) UpdateRun(ctx context.Context, id, status string) error {
	in := map[string]any{"run_id": id, "status": status}
	if status != Running {
		in["end_time"] = time.Now().UnixMilli()
	}
	return c.call(ctx, fmt.Sprintf("set run %q to %s", id, status), http.MethodPost, "runs/update", in, nil)
}

// SetRunTag sets one tag of a run.
func (c *Client) SetRunTag(ctx context.Context, id, key, value string) error {
	return c.call(ctx, fmt.Sprintf("set tag %q of run %q", key, id), http.MethodPost, "runs/set-tag",
		map[string]any{"run_id": id, "key": key, "value": value}, nil)
}

// LogMetrics adds points to a run's curves; sending the same points again changes nothing.
func (c *Client) LogMetrics(ctx context.Context, id string, metrics []Metric) error {
	type point struct {
		Key   string  `json:"key"`
		Value float64 `json:"value"`
		Time  int64   `json:"timestamp"`
		Step  int64   `json:"step"`
	}
	var points []point
	for _, m := range metrics {
		if math.IsNaN(m.Value) || math.IsInf(m.Value, 0) {
			continue
		}
		if m.Time.IsZero() {
			m.Time = time.Now()
		}
		points = append(points, point{m.Key, m.Value, m.Time.UnixMilli(), m.Step})
	}
	for batch := range slices.Chunk(points, maxBatchMetrics) {
		if err := c.call(ctx, fmt.Sprintf("log metrics of run %q", id), http.MethodPost, "runs/log-batch",
			map[string]any{"run_id": id, "metrics": batch}, nil); err != nil {
			return err
		}
	}
	return nil
}

// LogParams records a run's parameters. MLflow keeps the first value of each:
// the same value again is accepted, another one is refused. Values are cut to 6000 characters.
func (c *Client) LogParams(ctx context.Context, id string, params map[string]string) error {
	list := pairs(params)
	for i := range list {
		if v := []rune(list[i].Value); len(v) > maxParamValue {
			list[i].Value = string(v[:maxParamValue])
		}
	}
	for batch := range slices.Chunk(list, maxBatchParams) {
		if err := c.call(ctx, fmt.Sprintf("log parameters of run %q", id), http.MethodPost, "runs/log-batch",
			map[string]any{"run_id": id, "params": batch}, nil); err != nil {
			return err
		}
	}
	return nil
}

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
