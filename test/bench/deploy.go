package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"mime/multipart"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/insitu-ml/insitu/internal/inference"
	"github.com/insitu-ml/insitu/internal/localservices"
	"github.com/insitu-ml/insitu/internal/postgres"
)

// deploySchema is the group's own in both databases, and its registered model.
const deploySchema = "bench_deploy"

// Of the load during switches: clients, and files of a request, which one version must predict.
const (
	switchClients = 16
	switchFiles   = 3
	leastSwitches = 10 // of a round, the deployment's among them
)

// deploy measures how long a version takes to be in service and out of it again, with the programs as users start them,
// and what clients notice of that: requests that fail, and answers that are not of the version they name.
func deploy(ctx context.Context, b *bench) error {
	d := &deployments{bench: b}
	defer d.close()
	if err := d.prepare(ctx); err != nil {
		return err
	}
	var into, back []float64
	for round := range b.rounds {
		s, err := timed(func() error {
			if err := d.deploy(ctx, d.versions[round]); err != nil {
				return err
			}
			return d.serves(ctx, d.versions[round])
		})
		if err != nil {
			return err
		}
		into = append(into, s)
		if s, err = timed(func() error {
			if err := d.rollback(ctx, d.first); err != nil {
				return err
			}
			return d.serves(ctx, d.first)
		}); err != nil {
			return err
		}
		back = append(back, s)
	}
	b.add("digits: deploy-inference-db of a version that is new to the database, until insitu serve answers by it", atMost(10), seconds, summarize(into))
	b.add("digits: insitu rollback to the version before, until insitu serve answers by it", atMost(5), seconds, summarize(back))

	calls := scaled(10_000, b.scale, 1000)
	var failed, mixed float64 // of all rounds: a median would hide a single one
	var switches, rate []float64
	for round := range b.rounds {
		l, err := d.switchUnderLoad(ctx, calls, d.versions[b.rounds+round])
		if err != nil {
			return err
		}
		failed, mixed = failed+float64(l.failed), mixed+float64(l.mixed)
		switches, rate = append(switches, float64(l.switches)), append(rate, l.rate)
	}
	what := fmt.Sprintf("digits, %d times at least %d calls of %d rows, %d clients, versions deployed and rolled back meanwhile: ", b.rounds, calls, switchFiles, switchClients)
	b.add(what+"calls that failed", atMost(0), count, summarize([]float64{failed}))
	b.add(what+"calls with a label that the named version does not give", atMost(0), count, summarize([]float64{mixed}))
	b.add(what+"switches a time", goal{}, count, summarize(switches))
	b.add(what+"calls a second", goal{}, perSecond, summarize(rate))
	return nil
}

// deployments are versions of the digits model in the registry, of which the first is served.
type deployments struct {
	*bench
	server   *server
	conn     *postgres.Conn // of the inference database
	training *postgres.Conn
	first    int
	versions []int // that were not deployed yet
	rows     [][]byte
	bodies   [][]byte
	kind     string
}

func (d *deployments) close() {
	if d.server != nil {
		d.server.stop()
	}
	for _, c := range []*postgres.Conn{d.conn, d.training} {
		if c != nil {
			_ = exec1(context.Background(), c, "drop schema if exists "+deploySchema+" cascade")
			c.Close()
		}
	}
}

// prepare runs the pipeline, which registers a version for each of some learning rates and serves the best.
func (d *deployments) prepare(ctx context.Context) (err error) {
	if d.conn, err = postgres.Connect(ctx, d.inference, postgres.Options{}); err != nil {
		return err
	}
	if d.training, err = postgres.Connect(ctx, d.bench.training, postgres.Options{}); err != nil {
		return err
	}
	for _, c := range []*postgres.Conn{d.conn, d.training} {
		if err := exec1(ctx, c, "drop schema if exists "+deploySchema+" cascade"); err != nil {
			return err
		}
	}
	// From hardly trained to well: the versions give different labels.
	rates := []string{"0.02"}
	for i := range 2 * d.rounds {
		rates = append(rates, strconv.FormatFloat(0.000001*float64(i+1), 'f', -1, 64))
	}
	output := filepath.Join(d.dir, "deploy")
	if err := d.program(ctx, "insitu", "run", "--app", digits().folder, "--bindings", d.bindings, "--bin", filepath.Dir(d.insitu), "--output", output, "--plain",
		"-p", "schema="+deploySchema, "-p", "inference-schema="+deploySchema, "-p", "model-name="+deploySchema, "-p", "experiment="+deploySchema, "-p", "epochs=3",
		"-p", "min-accuracy=0", "-p", "min-f1=0", "-p", "tolerance=1", "-p", `sweep={"learning_rate": [`+strings.Join(rates, ", ")+`]}`,
		"-p", "training-binding="+localservices.TrainingBinding, "-p", "inference-binding="+localservices.InferenceBinding); err != nil {
		return err
	}
	all, err := registered(filepath.Join(output, "run.json"))
	if err != nil {
		return err
	}
	var dataset string
	if err := d.conn.QueryRow(ctx, "select v.version, m.manifest ->> 'dataset_digest' from "+deploySchema+".model_versions v join "+deploySchema+".models m using (name, version) where v.active").Scan(&d.first, &dataset); err != nil {
		return postgres.Wrap(err, "find the version that is served")
	}
	for _, text := range all {
		version, err := strconv.Atoi(text)
		if err != nil {
			return err
		}
		if version != d.first {
			d.versions = append(d.versions, version)
		}
	}
	if len(d.versions) < 2*d.rounds {
		return fmt.Errorf("%d versions were registered, expected %d", len(d.versions)+1, 2*d.rounds+1)
	}
	if d.rows, err = inference.TestRows(ctx, inference.Place{Conn: d.training, Schema: deploySchema}, dataset, 96); err != nil {
		return err
	}
	for at := 0; at+switchFiles <= len(d.rows); at += switchFiles {
		body, kind, err := filesForm(d.rows[at : at+switchFiles])
		if err != nil {
			return err
		}
		d.bodies, d.kind = append(d.bodies, body), kind
	}
	d.server, err = d.startServer(ctx, "insitu serve", "insitu-serve", nil, d.insitu, "serve", "--inference-schema", deploySchema, "--bindings", d.bindings,
		"--inference-binding", localservices.InferenceBinding, "--listen", "127.0.0.1:%port", "--sessions", strconv.Itoa(serveWorkers), "--queue", "128", "--drain", "0s", "--log-level", "warn")
	return err
}

// registered are the versions of the sweep, as run.json tells them.
func registered(file string) (versions []string, err error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	var run struct {
		Steps []struct {
			Name    string
			Outputs map[string]string
		}
	}
	if err := json.Unmarshal(text, &run); err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	for _, s := range run.Steps {
		if s.Name == "train-model" {
			err = json.Unmarshal([]byte(s.Outputs["model-version"]), &versions)
			return versions, err
		}
	}
	return nil, fmt.Errorf("%s tells of no training", file)
}

// program runs one of the programs; what it says is shown only if it fails.
func (d *deployments) program(ctx context.Context, name string, args ...string) error {
	cmd := exec.CommandContext(ctx, filepath.Join(filepath.Dir(d.insitu), name), args...)
	cmd.Env = append(os.Environ(), "SERVICE_BINDING_ROOT="+d.bindings, "INSITU_OUTPUT_DIR="+filepath.Join(d.dir, "outputs"))
	if os.Getenv("INSITU_LIQUIBASE") == "" {
		cmd.Env = append(cmd.Env, "INSITU_LIQUIBASE="+filepath.Join(os.Getenv("INSITU_TOOLS"), "liquibase"))
	}
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s %s: %w\n%s", name, args[0], err, out)
	}
	return nil
}

func (d *deployments) deploy(ctx context.Context, version int) error {
	return d.program(ctx, "deploy-inference-db", "--inference-schema="+deploySchema, "--schema="+deploySchema, "--model-name="+deploySchema, "--model-version="+strconv.Itoa(version),
		"--training-binding="+localservices.TrainingBinding, "--inference-binding="+localservices.InferenceBinding)
}

func (d *deployments) rollback(ctx context.Context, version int) error {
	return d.program(ctx, "insitu", "rollback", "--inference-schema", deploySchema, "--bindings", d.bindings, "--inference-binding", localservices.InferenceBinding, "--to", strconv.Itoa(version))
}

// answered is the answer of /v1/predict.
type answered struct {
	Predictions []struct{ Label string }
	Model       struct{ Version int }
}

func (d *deployments) ask(ctx context.Context, client *http.Client, n int) (a answered, err error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, d.server.url+"/v1/predict?top=1", bytes.NewReader(d.bodies[n%len(d.bodies)]))
	if err != nil {
		return a, err
	}
	request.Header.Set("Content-Type", d.kind)
	response, err := client.Do(request)
	if err != nil {
		return a, err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return a, errors.New(response.Status)
	}
	return a, json.NewDecoder(response.Body).Decode(&a)
}

// serves waits until the API answers by the version.
func (d *deployments) serves(ctx context.Context, version int) error {
	for began := time.Now(); time.Since(began) < time.Minute; time.Sleep(time.Millisecond) {
		a, err := d.ask(ctx, http.DefaultClient, 0)
		if err != nil {
			return err
		}
		if a.Model.Version == version {
			return nil
		}
	}
	return fmt.Errorf("insitu serve does not answer by version %d", version)
}

// underLoad is what came of calls while versions were switched.
type underLoad struct {
	failed, mixed, switches int
	rate                    float64 // calls a second
}

// switchUnderLoad sends calls while a new version is deployed, and that one and the first are switched to in turns.
func (d *deployments) switchUnderLoad(ctx context.Context, calls, version int) (l underLoad, err error) {
	type key struct{ version, body int }
	var mu sync.Mutex
	answers := map[key]map[string]int{} // labels, joined, by how often
	var asked, failed atomic.Int64
	var done atomic.Bool
	var all sync.WaitGroup
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: switchClients, MaxConnsPerHost: switchClients}, Timeout: 30 * time.Second}
	defer client.CloseIdleConnections()
	began := time.Now()
	for range switchClients {
		all.Go(func() {
			for !done.Load() {
				n := asked.Add(1)
				a, err := d.ask(ctx, client, int(n))
				if err != nil {
					failed.Add(1)
					d.say("a call failed: %v", err)
					continue
				}
				var labels []string
				for _, p := range a.Predictions {
					labels = append(labels, p.Label)
				}
				k := key{a.Model.Version, int(n) % len(d.bodies)}
				mu.Lock()
				if answers[k] == nil {
					answers[k] = map[string]int{}
				}
				answers[k][strings.Join(labels, ",")]++
				mu.Unlock()
			}
		})
	}
	for deployed := false; asked.Load() < int64(calls) || l.switches < leastSwitches; l.switches++ {
		switch {
		case !deployed:
			err, deployed = d.deploy(ctx, version), true
		case l.switches%2 == 1:
			err = d.rollback(ctx, d.first)
		default:
			err = d.rollback(ctx, version)
		}
		if err != nil {
			break
		}
	}
	done.Store(true)
	all.Wait()
	if err != nil {
		return l, err
	}
	l.failed, l.rate = int(failed.Load()), float64(asked.Load())/time.Since(began).Seconds()
	want := map[int][]string{}
	for _, v := range []int{d.first, version} {
		if want[v], err = d.labels(ctx, v); err != nil {
			return l, err
		}
	}
	different := 0
	for i := range d.rows {
		if want[d.first][i] != want[version][i] {
			different++
		}
	}
	if different < len(d.rows)/4 {
		return l, fmt.Errorf("versions %d and %d give the same label to all but %d of %d rows: a mixture would not be seen", d.first, version, different, len(d.rows))
	}
	for k, given := range answers {
		expected, known := want[k.version]
		for labels, n := range given {
			if !known || labels != strings.Join(expected[k.body*switchFiles:(k.body+1)*switchFiles], ",") {
				l.mixed += n
			}
		}
	}
	return l, d.rollback(ctx, d.first)
}

// labels are those that a version gives to the rows, whether it is active or not.
func (d *deployments) labels(ctx context.Context, version int) ([]string, error) {
	var raw []byte
	var classes []string
	if err := d.conn.QueryRow(ctx, "select "+deploySchema+".predict_version(name, version, $2, $3), array(select json_array_elements_text(manifest -> 'classes')) from "+deploySchema+".models where version = $1",
		version, bytes.Join(d.rows, nil), len(d.rows)).Scan(&raw, &classes); err != nil {
		return nil, postgres.Wrap(err, "predict_version")
	}
	width := len(raw) / 4 / len(d.rows)
	if width != len(classes) {
		return nil, fmt.Errorf("predict_version gives %d numbers a row, expected %d", width, len(classes))
	}
	var out []string
	for row := range slices.Chunk(raw, 4*width) {
		best := 0
		at := func(i int) float32 { return math.Float32frombits(binary.LittleEndian.Uint32(row[4*i:])) }
		for i := range width {
			if at(i) > at(best) {
				best = i
			}
		}
		out = append(out, classes[best])
	}
	return out, nil
}

// filesForm is a form with several files.
func filesForm(files [][]byte) (body []byte, contentType string, err error) {
	var b bytes.Buffer
	w := multipart.NewWriter(&b)
	if err := w.SetBoundary("insitu-bench-boundary"); err != nil {
		return nil, "", err
	}
	for i, file := range files {
		part, err := w.CreateFormFile("file", fmt.Sprintf("row-%d", i))
		if err != nil {
			return nil, "", err
		}
		if _, err := part.Write(file); err != nil {
			return nil, "", err
		}
	}
	err = w.Close()
	return b.Bytes(), w.FormDataContentType(), err
}
