package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"image"
	"image/color"
	"image/png"
	"mime/multipart"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/insitu-ml/insitu/internal/localservices"
	"github.com/insitu-ml/insitu/internal/postgres"
	"github.com/insitu-ml/insitu/internal/training"
)

// Both sides of the API's comparison predict this many requests at the same time: sessions of insitu serve, workers of uvicorn.
const serveWorkers = 2

// uploads is how many different pictures the clients send.
const uploads = 64

// servedModel is a model whose API is measured, with these numbers of clients.
type servedModel struct {
	model
	clients []int
}

// serve measures the inference database as callers meet it: by SQL, and by HTTP beside two peers.
func serve(ctx context.Context, b *bench) error {
	small, err := b.images(ctx, dataKey{scaled(2_560, b.scale, 1000), 2, ordinary()})
	if err != nil {
		return err
	}
	pictures, err := pictures()
	if err != nil {
		return err
	}
	for _, m := range []servedModel{{large(), []int{1, 16}}, {softmax(), []int{1, 4, 16, 64}}} {
		job, err := b.job(ctx, m.model, small, 1, 1, nil)
		if err != nil {
			return err
		}
		model, err := b.trained(ctx, job, nil)
		if err != nil {
			return err
		}
		c, err := b.served(ctx, model)
		if err != nil {
			return err
		}
		err = b.serveModel(ctx, c, m, model, pictures)
		c.Close()
		if err != nil {
			return err
		}
	}
	return nil
}

func (b *bench) serveModel(ctx context.Context, c *postgres.Conn, m servedModel, model training.Model, pictures [][]byte) error {
	path := filepath.Join(b.dir, "served.onnx")
	if err := os.WriteFile(path, model.ONNX, 0o600); err != nil {
		return err
	}
	if m.name == large().name { // the call's own cost is the same for all models; the large one is what people serve
		if err := b.serveArrays(ctx, c, m, path); err != nil {
			return err
		}
	}
	if err := b.serveCalls(ctx, c, m, pictures); err != nil {
		return err
	}
	return b.serveHTTP(ctx, m, path, pictures)
}

// serveArrays predicts images that lie in the table as arrays already.
func (b *bench) serveArrays(ctx context.Context, c *postgres.Conn, m servedModel, path string) error {
	images := scaled(5_120, b.scale, 512) / pack * pack
	if err := b.rowTable(ctx, c, "image_rows", "bytea", images); err != nil {
		return err
	}
	if err := execAll(ctx, c, "create table image_arrays (id int, imgs bytea[])", "alter table image_arrays alter column imgs set storage external",
		"insert into image_arrays select id / 256, array_agg(pixels order by id) from image_rows group by id / 256", "vacuum analyze image_arrays"); err != nil {
		return err
	}
	file := filepath.Join(b.dir, "rows.raw")
	if err := writeRaw(file, images); err != nil {
		return err
	}
	w, err := b.worker(ctx, "", "")
	if err != nil {
		return err
	}
	defer w.close()
	if _, err := w.do(map[string]any{"do": "load_model", "path": path}); err != nil {
		return err
	}
	const arrays = "image_arrays a, lateral predict_batch(a.imgs) p"
	if err := b.sameLabels(ctx, c, w, file, images, labels(), arrays); err != nil {
		return err
	}
	const few = 32 // as many as the database gives ONNX Runtime at a time
	var inside, plain, fewer []float64
	for round := range b.rounds + 1 { // the first is to warm up
		var sides [2]answer
		for i, size := range []int{pack, few} {
			if sides[i], err = w.do(map[string]any{"do": "predict", "path": file, "rows": images, "size": size}); err != nil {
				return err
			}
		}
		var rows int
		s, err := timed(func() error { return c.QueryRow(ctx, "select count(p.label) from "+arrays).Scan(&rows) })
		if err != nil {
			return postgres.Wrap(err, "predict_batch")
		}
		if rows != images {
			return fmt.Errorf("predict_batch gave %d rows, expected %d", rows, images)
		}
		if round > 0 {
			inside, plain, fewer = append(inside, s), append(plain, sides[0].Seconds), append(fewer, sides[1].Seconds)
		}
	}
	b.add(fmt.Sprintf("%s, %d images: ONNX Runtime, 256 at a time (limit) / predict_batch over stored arrays of 256", m.name, images), atLeast(0.95), ratio, paired(plain, inside))
	b.add(fmt.Sprintf("%s, %d images: ONNX Runtime, %d at a time, which is quicker / the same", m.name, images, few), goal{}, ratio, paired(fewer, inside))
	return nil
}

// serveCalls measures single calls with a picture: the first of a session, and how far slow ones are from the usual.
func (b *bench) serveCalls(ctx context.Context, c *postgres.Conn, m servedModel, pictures [][]byte) error {
	calls := scaled(2_000, b.scale, 200)
	var tail, usual []float64
	var label string
	for range b.rounds {
		var taken []float64
		for i := range calls + 20 { // the first 20 are to warm up
			s, err := timed(func() error {
				return c.QueryRow(ctx, "select run_inference_task($1)", pictures[i%len(pictures)]).Scan(&label)
			})
			if err != nil {
				return postgres.Wrap(err, "run_inference_task")
			}
			if i >= 20 {
				taken = append(taken, s)
			}
		}
		tail, usual = append(tail, quantile(taken, 0.99)/median(taken)), append(usual, median(taken))
	}
	b.add(fmt.Sprintf("%s, one picture a call by SQL, %d calls: p99 / p50", m.name, calls), atMost(2), times, summarize(tail))
	b.add(m.name+", one picture a call by SQL: p50", goal{}, hundredths, summarize(usual))
	return nil
}

// server is an API under measurement.
type server struct {
	name        string
	url         string
	cmd         *exec.Cmd
	application string // of its database sessions; "" for none
	processes   []int
	sessions    []int // processes of the database
}

func counted(n int, one, many string) string {
	if n == 1 {
		return "one " + one
	}
	return fmt.Sprintf("%d %s", n, many)
}

func (s *server) stop() {
	_ = s.cmd.Process.Signal(os.Interrupt)
	ended := make(chan struct{})
	go func() { _ = s.cmd.Wait(); close(ended) }()
	select {
	case <-ended:
	case <-time.After(15 * time.Second):
		_ = s.cmd.Process.Kill()
		<-ended
	}
}

// startServer runs an API until it is ready; %port in its arguments is a free port.
func (b *bench) startServer(ctx context.Context, name, application string, env []string, command ...string) (*server, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	port := strconv.Itoa(listener.Addr().(*net.TCPAddr).Port)
	_ = listener.Close()
	for i := range command {
		command[i] = strings.ReplaceAll(command[i], "%port", port)
	}
	cmd := exec.CommandContext(ctx, command[0], command[1:]...)
	cmd.Env, cmd.Stderr = append(os.Environ(), env...), os.Stderr
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	s := &server{name: name, url: "http://127.0.0.1:" + port, cmd: cmd, application: application}
	for range 600 {
		r, err := http.Get(s.url + "/readyz")
		if err == nil {
			_ = r.Body.Close()
			if r.StatusCode == http.StatusOK {
				return s, nil
			}
		}
		time.Sleep(100 * time.Millisecond)
	}
	s.stop()
	return nil, fmt.Errorf("%s is not ready after a minute", name)
}

// startOurs runs insitu serve; like uvicorn without its access log, it writes no line a request.
func (b *bench) startOurs(ctx context.Context) (*server, error) {
	return b.startServer(ctx, "insitu serve", "insitu-serve", nil, b.insitu, "serve", "--inference-schema", schema, "--bindings", b.bindings,
		"--inference-binding", localservices.InferenceBinding, "--listen", "127.0.0.1:%port", "--sessions", strconv.Itoa(serveWorkers), "--queue", "128", "--drain", "0s", "--log-level", "warn")
}

func (b *bench) startPeer(ctx context.Context, name, kind, application, model string, probe string) (*server, error) {
	c := b.inference
	env := []string{
		"PYTHONPATH=" + strings.Join([]string{"test/bench", "database/training/runtime", "database/inference/runtime"}, ":"), "PYTHONDONTWRITEBYTECODE=1",
		"OMP_NUM_THREADS=1", "OPENBLAS_NUM_THREADS=1", "MKL_NUM_THREADS=1", "INSITU_PEER=" + kind, "INSITU_PEER_SCHEMA=" + schema,
		"INSITU_PEER_MODEL=" + model, "INSITU_PEER_MANIFEST=" + servedManifest(), "INSITU_PEER_PROBE=" + probe,
		"PGHOST=" + c.Host, "PGPORT=" + strconv.Itoa(c.Port), "PGDATABASE=" + c.Database, "PGUSER=" + c.Username, "PGPASSWORD=" + c.Password, "PGSSLMODE=disable",
	}
	return b.startServer(ctx, name, application, env, b.peers, "-m", "uvicorn", "peers:app", "--port", "%port", "--workers", strconv.Itoa(serveWorkers),
		"--loop", "uvloop", "--http", "httptools", "--no-access-log", "--log-level", "warning")
}

// serveHTTP compares insitu serve with its peers: all run side by side and are asked in turns.
func (b *bench) serveHTTP(ctx context.Context, m servedModel, model string, pictures [][]byte) error {
	if b.peers == "" {
		b.missing(m.name+": the API", goal{}, ratio, "-peers is not set")
		return nil
	}
	probe := filepath.Join(b.dir, "probe.png")
	if err := os.WriteFile(probe, pictures[0], 0o600); err != nil {
		return err
	}
	bodies, contentType, err := forms(pictures)
	if err != nil {
		return err
	}
	if err := b.serveFirst(ctx, m, bodies, contentType); err != nil {
		return err
	}
	var servers []*server
	defer func() {
		for _, s := range servers {
			s.stop()
		}
	}()
	for _, start := range []func() (*server, error){
		func() (*server, error) { return b.startOurs(ctx) },
		func() (*server, error) {
			return b.startPeer(ctx, "FastAPI calling the SQL function", "sql", "bench-fastapi", model, probe)
		},
		func() (*server, error) {
			return b.startPeer(ctx, "FastAPI with ONNX Runtime in the process", "onnx", "", model, probe)
		},
	} {
		s, err := start()
		if err != nil {
			return err
		}
		servers = append(servers, s)
	}
	if err := sameAnswers(ctx, servers, bodies, contentType); err != nil {
		return err
	}
	for _, s := range servers {
		if err := b.find(ctx, s); err != nil {
			return err
		}
	}
	period := max(time.Duration(float64(2*time.Second)*b.scale), 500*time.Millisecond)
	for _, clients := range m.clients {
		results := make([][]measured, len(servers))
		for turn := range 2*b.rounds + 1 { // the first is to warm up; short ones, as the machine changes within seconds
			for i, s := range servers {
				before, err := usedProcessor(append(s.processes, s.sessions...))
				if err != nil {
					return err
				}
				l, err := ask(ctx, s.url, clients, period, bodies, contentType)
				if err != nil {
					return fmt.Errorf("%s, %d clients: %w", s.name, clients, err)
				}
				after, err := usedProcessor(append(s.processes, s.sessions...))
				if err != nil {
					return err
				}
				l.processor = (after - before) / float64(l.requests)
				if turn > 0 {
					results[i] = append(results[i], l)
				}
			}
		}
		b.addLoads(m, clients, servers, results)
	}
	for _, s := range servers {
		bytes, err := memory(s)
		if err != nil {
			return err
		}
		what := fmt.Sprintf("%s, memory of %s: %s", m.name, s.name, counted(len(s.processes), "process", "processes"))
		if len(s.sessions) > 0 {
			what += " and " + counted(len(s.sessions), "session", "sessions") + " in the database"
		}
		b.add(what, goal{}, mebibytes, summarize([]float64{bytes}))
	}
	return nil
}

// addLoads enters what some number of clients measured; the first server is ours.
func (b *bench) addLoads(m servedModel, clients int, servers []*server, results [][]measured) {
	column := func(i int, of func(measured) float64) (out []float64) {
		for _, l := range results[i] {
			out = append(out, of(l))
		}
		return out
	}
	rate := func(l measured) float64 { return l.rate }
	what := fmt.Sprintf("%s, %d clients: ", m.name, clients)
	for i, s := range servers[1:] {
		wanted := goal{}
		if clients == 16 {
			wanted = atLeast([]float64{3, 1}[i])
		}
		b.add(what+"requests a second of insitu serve / of "+s.name, wanted, times, paired(column(0, rate), column(i+1, rate)))
	}
	for i, s := range servers {
		b.add(what+s.name+", requests", goal{}, perSecond, summarize(column(i, rate)))
		b.add(what+s.name+", p50", goal{}, hundredths, summarize(column(i, func(l measured) float64 { return l.p50 })))
		b.add(what+s.name+", p99", goal{}, hundredths, summarize(column(i, func(l measured) float64 { return l.p99 })))
		b.add(what+s.name+", processor time a request", goal{}, hundredths, summarize(column(i, func(l measured) float64 { return l.processor })))
	}
}

// serveFirst compares the first request to an API that has just become ready with the first call of a new session.
func (b *bench) serveFirst(ctx context.Context, m servedModel, bodies [][]byte, contentType string) error {
	var call, request []float64
	for range b.rounds {
		s, err := b.startOurs(ctx)
		if err != nil {
			return err
		}
		first, err := timed(func() error { _, err := post(ctx, http.DefaultClient, s.url, bodies[0], contentType); return err })
		s.stop()
		if err != nil {
			return err
		}
		c, err := postgres.Connect(ctx, b.inference, postgres.Options{})
		if err != nil {
			return err
		}
		var label string
		picture, err := os.ReadFile(filepath.Join(b.dir, "probe.png"))
		if err != nil {
			return err
		}
		cold, err := timed(func() error {
			return c.QueryRow(ctx, "select "+schema+".run_inference_task($1)", picture).Scan(&label)
		})
		c.Close()
		if err != nil {
			return postgres.Wrap(err, "run_inference_task")
		}
		call, request = append(call, cold), append(request, first)
	}
	b.add(m.name+": the first request to insitu serve once it is ready / the first call of a new session", atMost(0.1), ratio, paired(request, call))
	b.add(m.name+": the first call of a new session", goal{}, milliseconds, summarize(call))
	return nil
}

// sameAnswers makes sure that all servers do the same work.
func sameAnswers(ctx context.Context, servers []*server, bodies [][]byte, contentType string) error {
	different := make([]int, len(servers))
	for _, body := range bodies {
		var want string
		for i, s := range servers {
			got, err := post(ctx, http.DefaultClient, s.url, body, contentType)
			if err != nil {
				return fmt.Errorf("%s: %w", s.name, err)
			}
			if i == 0 {
				want = got
			} else if got != want {
				different[i]++
			}
		}
	}
	for i, n := range different {
		if n > 1 { // a tie that rounding decides
			return fmt.Errorf("%s predicts %d of %d pictures differently", servers[i].name, n, len(bodies))
		}
	}
	return nil
}

// pictures are PNGs of generated images.
func pictures() ([][]byte, error) {
	g := newGenerator()
	out := make([][]byte, uploads)
	for i := range out {
		_, pixels := g.next()
		picture := image.NewNRGBA(image.Rect(0, 0, side, side))
		for at := range side * side {
			picture.SetNRGBA(at%side, at/side, color.NRGBA{pixels[at], pixels[side*side+at], pixels[2*side*side+at], 255})
		}
		var b bytes.Buffer
		if err := png.Encode(&b, picture); err != nil {
			return nil, err
		}
		out[i] = b.Bytes()
	}
	return out, nil
}

// forms are the pictures as a browser uploads them, all with one boundary.
func forms(pictures [][]byte) (bodies [][]byte, contentType string, err error) {
	for i, p := range pictures {
		var b bytes.Buffer
		w := multipart.NewWriter(&b)
		err := w.SetBoundary("insitu-bench-boundary")
		part, err2 := w.CreateFormFile("file", fmt.Sprintf("picture-%d.png", i))
		if err := errors.Join(err, err2); err != nil {
			return nil, "", err
		}
		if _, err := part.Write(p); err != nil {
			return nil, "", err
		}
		if err := w.Close(); err != nil {
			return nil, "", err
		}
		bodies, contentType = append(bodies, b.Bytes()), w.FormDataContentType()
	}
	return bodies, contentType, nil
}

// find notes the server's processes and its sessions in the database.
func (b *bench) find(ctx context.Context, s *server) error {
	s.processes = descendants(s.cmd.Process.Pid)
	if s.application == "" {
		return nil
	}
	c, err := postgres.Connect(ctx, b.inference, postgres.Options{})
	if err != nil {
		return err
	}
	defer c.Close()
	err = c.QueryRow(ctx, "select array_agg(pid) from pg_stat_activity where application_name = $1", s.application).Scan(&s.sessions)
	if err == nil && len(s.sessions) != serveWorkers {
		err = fmt.Errorf("%d, expected %d", len(s.sessions), serveWorkers)
	}
	return postgres.Wrap(err, "find the sessions of "+s.name)
}

// usedProcessor is how much processor time some processes have used, in seconds; the kernel counts in hundredths.
func usedProcessor(pids []int) (seconds float64, err error) {
	for _, pid := range pids {
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil {
			return 0, err
		}
		_, after, _ := strings.Cut(string(text), ") ") // the name before it may hold anything
		fields := strings.Fields(after)
		if len(fields) < 13 {
			return 0, fmt.Errorf("/proc/%d/stat has %d fields", pid, len(fields))
		}
		for _, field := range fields[11:13] { // in user mode, in the kernel
			ticks, err := strconv.ParseFloat(field, 64)
			if err != nil {
				return 0, err
			}
			seconds += ticks / 100
		}
	}
	return seconds, nil
}

// memory is what a server's processes and its sessions in the database hold, in bytes; a page that several share counts by its share.
func memory(s *server) (bytes float64, err error) {
	for _, pid := range append(s.processes, s.sessions...) {
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
		if err != nil {
			return 0, err
		}
		for line := range strings.Lines(string(text)) {
			if fields := strings.Fields(line); len(fields) == 3 && fields[0] == "Pss:" {
				kib, err := strconv.ParseFloat(fields[1], 64)
				if err != nil {
					return 0, err
				}
				bytes += kib * 1024
			}
		}
	}
	return bytes, nil
}

// descendants are a process and all that it started.
func descendants(pid int) []int {
	out := []int{pid}
	tasks, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	for _, file := range tasks {
		text, _ := os.ReadFile(file)
		for _, child := range strings.Fields(string(text)) {
			if n, err := strconv.Atoi(child); err == nil {
				out = append(out, descendants(n)...)
			}
		}
	}
	return out
}

// post sends one form and returns the label.
func post(ctx context.Context, client *http.Client, url string, body []byte, contentType string) (label string, err error) {
	request, err := form(ctx, url, body, contentType)
	if err != nil {
		return "", err
	}
	response, err := client.Do(request)
	if err != nil {
		return "", err
	}
	return labelOf(response)
}

func form(ctx context.Context, url string, body []byte, contentType string) (*http.Request, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, url+"/inference", bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	request.Header.Set("Content-Type", contentType)
	return request, nil
}

func labelOf(response *http.Response) (label string, err error) {
	defer func() { _ = response.Body.Close() }()
	var text bytes.Buffer
	if _, err := text.ReadFrom(response.Body); err != nil {
		return "", err
	}
	if response.StatusCode != http.StatusOK {
		return "", fmt.Errorf("%s: %s", response.Status, text.String())
	}
	err = json.Unmarshal(text.Bytes(), &label)
	return label, err
}
