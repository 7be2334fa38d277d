package serve

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"image"
	"image/color"
	"image/color/palette"
	"image/jpeg"
	"image/png"
	"io"
	"mime/multipart"
	"net"
	"net/http"
	"net/http/httptest"
	"net/textproto"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/zap"

	"github.com/insitu-ml/insitu/internal/fault"
	"github.com/insitu-ml/insitu/internal/postgres"
)

// draw sets every pixel of a digit, eight times as large.
func draw(d digit, set func(x, y int, grey uint8)) {
	for y := range 64 {
		for x := range 64 {
			set(x, y, uint8(int(d.pixels[y/8*8+x/8])*255/16))
		}
	}
}

func encoded(t testing.TB, encode func(w io.Writer) error) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := encode(&b); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func asPNG(t testing.TB, m image.Image) []byte {
	t.Helper()
	return encoded(t, func(w io.Writer) error { return png.Encode(w, m) })
}

func greyPNG(t testing.TB, d digit) []byte {
	t.Helper()
	m := image.NewGray(image.Rect(0, 0, 64, 64))
	draw(d, func(x, y int, grey uint8) { m.SetGray(x, y, color.Gray{Y: grey}) })
	return asPNG(t, m)
}

func TestPicturesOfAnyKindGetTheirLabel(t *testing.T) {
	t.Parallel()
	x := newTenant(t)
	x.deploy(t)
	x.activate(t, 1, 1)
	s := start(t, x, nil)
	bounds := image.Rect(0, 0, 64, 64)
	kinds := map[string]func(digit) []byte{
		"raw":  func(d digit) []byte { return d.pixels },
		"grey": func(d digit) []byte { return greyPNG(t, d) },
		"grey16": func(d digit) []byte {
			m := image.NewGray16(bounds)
			draw(d, func(x, y int, g uint8) { m.SetGray16(x, y, color.Gray16{Y: uint16(g) * 257}) })
			return asPNG(t, m)
		},
		"RGBA": func(d digit) []byte { // white ink on transparent would be white on white: the ink is the alpha of black, upside down
			m := image.NewNRGBA(bounds)
			draw(d, func(x, y int, g uint8) { m.SetNRGBA(x, y, color.NRGBA{A: 255 - g}) })
			return asPNG(t, m)
		},
		"RGB": func(d digit) []byte {
			m := image.NewNRGBA(bounds)
			draw(d, func(x, y int, g uint8) { m.SetNRGBA(x, y, color.NRGBA{g, g, g, 255}) })
			return asPNG(t, m)
		},
		"palette": func(d digit) []byte {
			m := image.NewPaletted(bounds, palette.Plan9)
			draw(d, func(x, y int, g uint8) { m.Set(x, y, color.Gray{Y: g}) })
			return asPNG(t, m)
		},
		"JPEG": func(d digit) []byte {
			m := image.NewGray(bounds)
			draw(d, func(x, y int, g uint8) { m.SetGray(x, y, color.Gray{Y: g}) })
			return encoded(t, func(w io.Writer) error { return jpeg.Encode(w, m, nil) })
		},
	}
	for name, picture := range kinds {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			wrong := 0
			for i, d := range digits(t, 20) {
				file := picture(d)
				a := s.post(t, "/inference", file)
				if a.status != 200 {
					t.Fatalf("digit %d: %d %s", i, a.status, a.body)
				}
				if a.body != `"`+d.label+`"` {
					wrong++
				}
				b := s.post(t, "/v1/predict?top=2", file)
				var p predicted
				if err := json.Unmarshal([]byte(b.body), &p); err != nil || len(p.Predictions) != 1 {
					t.Fatalf("%d %s", b.status, b.body)
				}
				best := p.Predictions[0].Probabilities
				if a.body != `"`+p.Predictions[0].Label+`"` || len(best) != 2 || best[0].Label != p.Predictions[0].Label || best[0].Probability < best[1].Probability ||
					p.Model.Name != "digits" || p.Model.Version != 1 || p.Milliseconds <= 0 {
					t.Errorf("digit %d, a %s: %s", i, d.label, b.body)
				}
			}
			if wrong > 1 { // scaling down loses a little
				t.Errorf("%d of 20 digits are read wrongly", wrong)
			}
		})
	}
}

// bomb is a small PNG that claims to be large.
func bomb(t testing.TB, side uint32) []byte {
	t.Helper()
	b := asPNG(t, image.NewGray(image.Rect(0, 0, 8, 8)))
	binary.BigEndian.PutUint32(b[16:], side)
	binary.BigEndian.PutUint32(b[20:], side)
	binary.BigEndian.PutUint32(b[29:], crc32.ChecksumIEEE(b[12:29]))
	return b
}

func TestWhatIsNoPictureIsRefusedWithAReason(t *testing.T) {
	t.Parallel()
	x := newTenant(t)
	x.deploy(t)
	x.activate(t, 1, 1)
	s := start(t, x, nil)
	picture := greyPNG(t, digits(t, 1)[0])
	kind, whole := form(t, picture)
	parts := func(write func(w *multipart.Writer)) (string, string) {
		var b bytes.Buffer
		w := multipart.NewWriter(&b)
		write(w)
		_ = w.Close()
		return w.FormDataContentType(), b.String()
	}
	files := func(all ...[]byte) (string, string) {
		kind, body := form(t, all...)
		return kind, body.String()
	}
	type request struct {
		kind, body string
		status     int
		want       string // type, where, part of the text
	}
	with := func(status int, want string, all ...[]byte) request {
		kind, body := files(all...)
		return request{kind, body, status, want}
	}
	for name, r := range map[string]request{
		"a text file":     with(422, `not_an_image ["body","file"] the bytes are neither an image`, []byte("hello world")),
		"a truncated PNG": with(422, `not_an_image ["body","file"] the image cannot be read`, picture[:len(picture)/2]),
		"half a header":   with(422, `not_an_image ["body","file"] the bytes are neither`, picture[:11]),
		"an empty file":   with(422, `not_an_image ["body","file"] there is no image`, nil),
		"zeros":           with(422, `not_an_image ["body","file"] the bytes are neither`, bytes.Repeat([]byte{0}, 1000)),
		"a bomb":          with(413, `too_large ["body","file"] the image has 8000 x 8000 pixels, the limit is 40000000`, bomb(t, 8000)),
		"a larger bomb":   with(413, `too_large ["body","file"] the image is too large: Image size (900000000 pixels)`, bomb(t, 30000)),
		"a huge file":     with(413, `too_large ["body"] the request has more than 1048576 bytes`, bytes.Repeat([]byte{1}, 3<<20)),
		"no field":        {"multipart/form-data; boundary=x", "--x--\r\n", 422, `missing ["body","file"] Field required`},
		"another field": func() request {
			kind, body := parts(func(w *multipart.Writer) { _, _ = w.CreateFormFile("image", "a.png") })
			return request{kind, body, 422, `missing ["body","file"] Field required`}
		}(),
		"a text field": func() request {
			kind, body := parts(func(w *multipart.Writer) { _ = w.WriteField("file", "hello") })
			return request{kind, body, 422, `value_error ["body","file"] expected a file with a file name`}
		}(),
		"URL-encoded":        {"application/x-www-form-urlencoded", `{"file": "x"}`, 422, `missing ["body","file"] Field required: expected multipart/form-data`},
		"no type":            {"", "hello", 422, `missing ["body","file"] Field required`},
		"no boundary":        {"multipart/form-data", "hello", 400, `broken_form ["body"] the form cannot be read: its Content-Type names no boundary`},
		"another boundary":   {"multipart/form-data; boundary=x", whole.String(), 422, `missing ["body","file"] Field required`},
		"a body cut off":     {kind, whole.String()[:whole.Len()-100], 400, `broken_form ["body"] the form cannot be read`},
		"an empty body":      {kind, "", 422, `missing ["body","file"] Field required`},
		"a header too large": {"multipart/form-data; boundary=x", "--x\r\nA: " + strings.Repeat("a", 900<<10) + "\r\n\r\n\r\n--x--\r\n", 422, `missing ["body","file"] Field required`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for _, path := range []string{"/inference", "/v1/predict"} {
				a := s.send(t, path, r.kind, strings.NewReader(r.body))
				kind, msg, loc := a.problem(t)
				want := r.want
				if path == "/v1/predict" && (strings.Contains(want, "not_an_image") || strings.Contains(want, "the image")) {
					want = strings.Replace(want, `"file"]`, `"file",0]`, 1)
				}
				if got := kind + " " + loc + " " + msg; a.status != r.status || !strings.HasPrefix(got, want) {
					t.Errorf("%s: %d %s, want %d %s", path, a.status, got, r.status, want)
				}
				if a.header.Get("Retry-After") != "" {
					t.Errorf("%s: %d tells to try again", path, a.status)
				}
			}
		})
	}
	// A body of unknown length is cut at the limit as well.
	kind, large := form(t, bytes.Repeat([]byte{1}, 3<<20))
	if a := s.send(t, "/inference", kind, io.MultiReader(large)); a.status != 413 {
		t.Errorf("a chunked huge file: %d %s", a.status, a.body)
	}
	if a := s.post(t, "/inference", picture, picture); a.status != 422 || !strings.Contains(a.body, "more files than expected: 1 at most") {
		t.Errorf("two files for /inference: %d %s", a.status, a.body)
	}
	if a := s.post(t, "/v1/predict", make65(picture)...); a.status != 422 || !strings.Contains(a.body, "64 at most") {
		t.Errorf("65 files: %d %s", a.status, a.body)
	}
	a := s.post(t, "/v1/predict", picture, picture, []byte("text"))
	if _, msg, loc := a.problem(t); a.status != 422 || loc != `["body","file",2]` || strings.Contains(msg, "plpy") {
		t.Errorf("the third of three files is text: %d %s", a.status, a.body)
	}
	for _, top := range []string{"0", "-1", "x", "1.5"} {
		if a := s.post(t, "/v1/predict?top="+top, picture); a.status != 422 || !strings.Contains(a.body, `["query","top"]`) {
			t.Errorf("top=%s: %d %s", top, a.status, a.body)
		}
	}
	if log := s.log.String(); strings.Contains(log, "hello world") || strings.Contains(log, "picture") {
		t.Error("the log holds what was sent")
	}
}

func make65(picture []byte) (all [][]byte) {
	for range 65 {
		all = append(all, picture)
	}
	return all
}

func TestManyFilesAreAnsweredInTheirOrder(t *testing.T) {
	t.Parallel()
	x := newTenant(t)
	x.deploy(t)
	x.activate(t, 1, 2)
	s := start(t, x, nil)
	var files [][]byte
	var want, got []string
	for _, d := range digits(t, 64) {
		files, want = append(files, d.pixels), append(want, d.label)
	}
	a := s.post(t, "/v1/predict?top=1000", files...)
	var p predicted
	if err := json.Unmarshal([]byte(a.body), &p); err != nil || p.Model.Version != 2 {
		t.Fatalf("%d %s", a.status, a.body)
	}
	for _, x := range p.Predictions {
		got = append(got, x.Label)
		if len(x.Probabilities) != 10 {
			t.Errorf("%d probabilities of 10 classes", len(x.Probabilities))
		}
	}
	wrong := 0
	for i := range want {
		if want[i] != got[i] {
			wrong++
		}
	}
	if len(got) != 64 || wrong > 1 { // the model's accuracy is 0.99
		t.Error(cmp.Diff(want, got))
	}
}

func TestNoModelYetIsSaidAndASwitchIsNoticed(t *testing.T) {
	t.Parallel()
	x := newTenant(t)
	s := start(t, x, nil)
	picture := greyPNG(t, digits(t, 1)[0])
	waiting := func(want string) {
		t.Helper()
		for _, a := range []answer{s.post(t, "/inference", picture), s.post(t, "/v1/predict", picture), s.get(t, "/v1/model")} {
			if kind, msg, _ := a.problem(t); a.status != 503 || kind != "no_model" || msg != want || a.header.Get("Retry-After") != "10" {
				t.Errorf("%d %s", a.status, a.body)
			}
		}
		eventually(t, "ready without a model, because "+want, func() bool {
			a := s.get(t, "/readyz")
			return a.status == 200 && strings.Contains(a.body, `"model":null`) && strings.Contains(a.body, want)
		})
	}
	waiting("no model has been deployed in this schema yet")
	x.deploy(t)
	waiting("no model is active in this schema")

	x.activate(t, 1, 1)
	version := func(want string) {
		t.Helper()
		for range 10 { // whichever session
			if a := s.post(t, "/v1/predict", picture); a.status != 200 || !strings.Contains(a.body, want) {
				t.Errorf("%d %s, want %s", a.status, a.body, want)
			}
		}
	}
	version(`"version":1`)
	x.activate(t, 2, 2)
	version(`"version":2`)
	if a := s.get(t, "/v1/model"); a.body != `{"name":"digits","version":2,"takes":"pictures"}` {
		t.Errorf("a role that may only predict: %s", a.body)
	}
	x.exec(t, "grant select on model_versions to "+postgres.Ident(x.config.Username))
	var m Model
	if a := s.get(t, "/v1/model"); json.Unmarshal([]byte(a.body), &m) != nil || m.Version != 2 || len(m.Digest) != 64 || string(m.Metrics) != `{"accuracy_score":0.98}` || m.DeployedAt == nil || m.DeployedBy == "" {
		t.Errorf("a role that may read model_versions: %s", a.body)
	}
	eventually(t, "the model in /readyz and /metrics", func() bool {
		return strings.Contains(s.get(t, "/readyz").body, `"model":{"name":"digits","version":2},"reason":null`) &&
			strings.Contains(s.get(t, "/metrics").body, `insitu_active_model{model="digits",version="2"} 1`)
	})

	x.exec(t, "update model_blobs set onnx = '\\x00'")
	x.activate(t, 3, 1)
	eventually(t, "a damaged model is told", func() bool { // sessions keep the versions they have loaded
		x.exec(t, "select pg_terminate_backend(pid) from pg_stat_activity where usename = $1", x.config.Username)
		a := s.post(t, "/inference", picture)
		return a.status == 503 && strings.Contains(a.body, "model_corrupt") && strings.Contains(a.body, "SHA-256")
	})
	x.exec(t, "revoke all on all functions in schema "+postgres.Ident(x.schema)+" from "+postgres.Ident(x.config.Username))
	if a := s.post(t, "/inference", picture); a.status != 503 || !strings.Contains(a.body, "grant_inference") {
		t.Errorf("a role without the right: %d %s", a.status, a.body)
	}
}

func TestErrorsOfTheDatabaseBecomeAnswers(t *testing.T) {
	t.Parallel()
	x := newTenant(t)
	x.standIn(t)
	s := start(t, x, func(c *Config) { c.RequestTimeout = 2 * time.Second })
	if a := s.post(t, "/inference", []byte("cat")); a.status != 200 || a.body != `"cat <&>"` || a.header.Get("Content-Type") != "application/json" {
		t.Errorf("%d %q", a.status, a.body)
	}
	for command, want := range map[string]string{
		"raise IS001": "422 not_an_image", "raise IS002": "422 wrong_shape", "raise IS003": "503 no_model", "raise IS004": "503 model_corrupt", "raise IS005": "413 too_large",
		"raise 42501": "503 not_granted", "raise 3F000": "503 no_model", "raise 42P01": "503 no_model",
		"raise 53200": "503 database_away", "raise 57014": "503 database_away", "raise 40001": "503 database_away",
		"raise 38000": "500 internal", "raise XX000": "500 internal", "sleep 5": "504 timeout",
	} {
		t.Run(command, func(t *testing.T) {
			t.Parallel()
			for _, path := range []string{"/inference", "/v1/predict"} {
				a := s.post(t, path, []byte(command))
				kind, msg, _ := a.problem(t)
				if got := fmt.Sprint(a.status, " ", kind); got != want {
					t.Errorf("%s: %s, want %s", path, a.body, want)
				}
				if (a.header.Get("Retry-After") != "") != (a.status == 503) {
					t.Errorf("%s: Retry-After %q with %d", path, a.header.Get("Retry-After"), a.status)
				}
				if a.status == 500 && (strings.Contains(msg, "told to raise") || !strings.Contains(s.log.String(), "told to raise")) {
					t.Errorf("the cause belongs into the log only: %s", a.body)
				}
			}
		})
	}
}

func TestPathsMethodsAndTheToken(t *testing.T) {
	t.Parallel()
	x := newTenant(t)
	x.standIn(t)
	s := start(t, x, func(c *Config) { c.Token = "s3cret-token" })
	open := []string{"/healthz", "/readyz", "/metrics", "/openapi.json", "/docs", "/"}
	guarded := map[string]string{"/inference": http.MethodPost, "/v1/predict": http.MethodPost, "/v1/model": http.MethodGet}
	for _, path := range open {
		if a := s.get(t, path); a.status != 200 {
			t.Errorf("%s: %d", path, a.status)
		}
	}
	do := func(method, path, authorization string) answer {
		t.Helper()
		kind, body := form(t, []byte("cat"))
		r, err := http.NewRequestWithContext(t.Context(), method, s.url+path, body)
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Content-Type", kind)
		if authorization != "" {
			r.Header.Set("Authorization", authorization)
		}
		return s.do(t, r)
	}
	for path, method := range guarded {
		for authorization, want := range map[string]int{"": 401, "Bearer wrong": 401, "Bearer ": 401, "Basic s3cret-token": 401, "s3cret-token": 401, "Bearer s3cret-token": 200, "bearer s3cret-token": 200} {
			if a := do(method, path, authorization); a.status != want {
				t.Errorf("%s %s with %q: %d, want %d", method, path, authorization, a.status, want)
			}
		}
		for _, other := range []string{http.MethodGet, http.MethodPost, http.MethodPut, http.MethodDelete, http.MethodPatch, http.MethodOptions, "BREW"} {
			if other == method {
				continue
			}
			if a := do(other, path, ""); a.status != 405 || a.header.Get("Allow") != method {
				t.Errorf("%s %s: %d, Allow %q", other, path, a.status, a.header.Get("Allow"))
			}
		}
	}
	if a := do(http.MethodHead, "/healthz", ""); a.status != 200 || a.body != "" {
		t.Errorf("HEAD: %d %q", a.status, a.body)
	}
	for _, path := range []string{"/nope", "/inference/", "//inference", "/v1", "/healthz/x", "/%2e%2e/etc/passwd"} {
		if a := s.get(t, path); a.status != 404 {
			t.Errorf("%s: %d", path, a.status)
		}
	}
	a := s.get(t, "/healthz")
	if a.header.Get("Access-Control-Allow-Origin") != "" || a.header.Get("X-Content-Type-Options") != "nosniff" || len(a.header.Get("X-Request-Id")) != 16 {
		t.Errorf("headers: %v", a.header)
	}
	if log := s.log.String(); strings.Contains(log, "s3cret") {
		t.Error("the log holds the token")
	}
	metrics := s.get(t, "/metrics").body
	for _, want := range []string{`insitu_http_requests_total{method="POST",route="/inference",status="401"} 5`, `insitu_http_requests_total{method="other",route="/inference",status="405"} 1`,
		`route="other",status="404"} 6`, "insitu_sessions 2", "insitu_requests_waiting 0", "go_goroutines", `insitu_predictions_total{model="cats",version="1"} 4`} {
		if !strings.Contains(metrics, want) {
			t.Errorf("/metrics lacks %s", want)
		}
	}
}

func TestRequestIDsAreKeptWhenTheyAreHarmless(t *testing.T) {
	t.Parallel()
	for given, kept := range map[string]bool{"abc-1_2.Z": true, "": false, "a b": false, "x\n": false, strings.Repeat("a", 65): false, "é": false} {
		if id := requestID(given); (id == given) != kept || id == "" {
			t.Errorf("%q became %q", given, id)
		}
	}
}

func TestWhenAllSessionsAreTakenMoreRequestsAreTurnedAway(t *testing.T) {
	t.Parallel()
	x := newTenant(t)
	x.standIn(t)
	s := start(t, x, func(c *Config) { c.Sessions, c.Queue, c.RequestTimeout = 2, 3, 30*time.Second })
	var statuses [600]atomic.Int32
	var all sync.WaitGroup
	began := time.Now()
	for range 12 {
		all.Add(1)
		go func() {
			defer all.Done()
			began := time.Now()
			a := s.post(t, "/inference", []byte("sleep 2"))
			statuses[a.status].Add(1)
			if a.status == 503 && (!strings.Contains(a.body, `"busy"`) || a.header.Get("Retry-After") != "1" || time.Since(began) > 1900*time.Millisecond) {
				t.Errorf("after %s: %s", time.Since(began), a.body)
			}
		}()
	}
	all.Wait()
	if ok, busy := statuses[200].Load(), statuses[503].Load(); ok != 5 || busy != 7 { // two at once, three wait
		t.Errorf("%d answered and %d turned away, want 5 and 7", ok, busy)
	}
	if took := time.Since(began); took < 5900*time.Millisecond {
		t.Errorf("five requests of two seconds took two sessions %s", took)
	}
}

func TestAClientThatGoesAwayFreesItsSession(t *testing.T) {
	t.Parallel()
	x := newTenant(t)
	x.standIn(t)
	s := start(t, x, func(c *Config) { c.Sessions, c.Queue = 1, 0 })
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	kind, body := form(t, []byte("sleep 8"))
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, s.url+"/inference", body)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Content-Type", kind)
	if _, err := http.DefaultClient.Do(r); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatal(err)
	}
	began := time.Now()
	eventually(t, "the session is free", func() bool { return s.post(t, "/inference", []byte("cat")).status == 200 })
	if took := time.Since(began); took > 3*time.Second {
		t.Errorf("free after %s: the statement was not cancelled", took)
	}
	if log := s.log.String(); !strings.Contains(log, `"status":499`) {
		t.Error("the log does not tell of the client that went away")
	}
}

func TestConcurrentRequestsGetTheirOwnAnswers(t *testing.T) {
	t.Parallel()
	x := newTenant(t)
	x.deploy(t)
	x.activate(t, 1, 1)
	s := start(t, x, func(c *Config) { c.Sessions, c.Queue = 3, 64 })
	all := digits(t, 32)
	labels := make([]string, len(all))
	for i, d := range all {
		a := s.post(t, "/inference", d.pixels)
		labels[i] = a.body
	}
	var clients sync.WaitGroup
	for client := range 16 {
		clients.Add(1)
		go func() {
			defer clients.Done()
			for i := range all {
				i = (i + client) % len(all)
				if a := s.post(t, "/inference", all[i].pixels); a.status != 200 || a.body != labels[i] {
					t.Errorf("client %d, digit %d: %d %s, alone %s", client, i, a.status, a.body, labels[i])
				}
			}
		}()
	}
	clients.Wait()
	if n := x.open(t); n != 3 {
		t.Errorf("%d sessions, want 3", n)
	}
	s.stop()
	err := <-s.ended
	s.ended <- nil
	if err != nil {
		t.Error(err)
	}
	eventually(t, "no session is left", func() bool { return x.open(t) == 0 })
}

func TestLostSessionsCostNoRequest(t *testing.T) {
	t.Parallel()
	x := newTenant(t)
	x.standIn(t)
	s := start(t, x, nil)
	for round := range 5 {
		x.exec(t, "select pg_terminate_backend(pid, 5000) from pg_stat_activity where usename = $1", x.config.Username)
		for range 4 {
			if a := s.post(t, "/inference", []byte("cat")); a.status != 200 {
				t.Fatalf("round %d: %d %s", round, a.status, a.body)
			}
		}
	}
	eventually(t, "two sessions again", func() bool { return x.open(t) == 2 && strings.Contains(s.get(t, "/readyz").body, `"sessions":2`) })
}

// gate passes connections on to the database, or refuses them.
func gate(t *testing.T, x tenant) (config postgres.Config, shut func(bool)) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close() })
	var mu sync.Mutex
	closed := true
	var open []net.Conn
	go func() {
		for {
			in, err := listener.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			out, err := net.Dial("tcp", net.JoinHostPort(x.config.Host, fmt.Sprint(x.config.Port)))
			if closed || err != nil {
				in.Close()
			} else {
				open = append(open, in, out)
				go func() { _, _ = io.Copy(in, out); in.Close() }()
				go func() { _, _ = io.Copy(out, in); out.Close() }()
			}
			mu.Unlock()
		}
	}()
	config = x.config
	address := listener.Addr().(*net.TCPAddr)
	config.Host, config.Port = "127.0.0.1", address.Port
	return config, func(shut bool) {
		mu.Lock()
		defer mu.Unlock()
		if closed = shut; shut {
			for _, c := range open {
				c.Close()
			}
			open = nil
		}
	}
}

func TestADatabaseThatIsAwayIsWaitedFor(t *testing.T) {
	t.Parallel()
	x := newTenant(t)
	x.standIn(t)
	config, shut := gate(t, x)
	s := start(t, x, func(c *Config) { c.Database = databaseOf(config) })
	away := func() {
		t.Helper()
		eventually(t, "not ready", func() bool {
			a := s.get(t, "/readyz")
			return a.status == 503 && strings.Contains(a.body, `"status":"database_away","sessions":0,"model":null`)
		})
		for _, a := range []answer{s.post(t, "/inference", []byte("cat")), s.get(t, "/v1/model")} {
			if kind, _, _ := a.problem(t); a.status != 503 || kind != "database_away" || a.header.Get("Retry-After") != "2" {
				t.Errorf("%d %s", a.status, a.body)
			}
		}
		if a := s.get(t, "/healthz"); a.status != 200 {
			t.Errorf("/healthz: %d", a.status)
		}
	}
	away()
	for range 2 {
		shut(false)
		eventually(t, "ready", func() bool { return s.get(t, "/readyz").status == 200 })
		if a := s.post(t, "/inference", []byte("cat")); a.status != 200 {
			t.Errorf("%d %s", a.status, a.body)
		}
		shut(true)
		if a := s.post(t, "/inference", []byte("cat")); a.status != 503 {
			t.Errorf("at the moment of the loss: %d %s", a.status, a.body)
		}
		away()
	}
}

func TestASignalEndsTheWaitForADatabaseThatSaysNothing(t *testing.T) {
	t.Parallel()
	silent, err := net.Listen("tcp", "127.0.0.1:0") // the system accepts, nobody answers
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	config := postgres.Config{Host: "127.0.0.1", Port: silent.Addr().(*net.TCPAddr).Port, Database: "d", Username: "u", SSLMode: "disable"}
	c := Config{
		Listen: "127.0.0.1:0", Schema: "s", Database: databaseOf(config),
		Sessions: 1, RequestTimeout: time.Second, MaxRequestBytes: 1, Log: zap.NewNop(),
	}
	ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
	defer cancel()
	began := time.Now()
	if err := Run(ctx, c); err != nil || time.Since(began) > 10*time.Second {
		t.Errorf("Run ended after %s: %v", time.Since(began), err)
	}
}

func TestALoginThatIsRefusedIsAMistakeInTheConfiguration(t *testing.T) {
	t.Parallel()
	x := newTenant(t)
	wrong := x.config
	wrong.Password = "wrong"
	for name, change := range map[string]func(*Config){
		"a wrong password": func(c *Config) { c.Database = databaseOf(wrong) },
		"no sessions":      func(c *Config) { c.Sessions = 0 },
		"no address":       func(c *Config) { c.Listen = "nowhere" },
		"no schema":        func(c *Config) { c.Schema = "" },
		"too large":        func(c *Config) { c.MaxRequestBytes = MaxRequestBytes + 1 },
		"any origin":       func(c *Config) { c.Origins = []string{"*"} },
		"an origin's page": func(c *Config) { c.Origins = []string{"https://app.example.com/"} },
		"MLflow by script": func(c *Config) { c.MLflowURL = "javascript:alert(1)" },
	} {
		c := Config{Listen: "127.0.0.1:0", Schema: "s", Database: databaseOf(x.config), Sessions: 1, RequestTimeout: time.Second, MaxRequestBytes: 1, Log: zap.NewNop()}
		change(&c)
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		if err := Run(ctx, c); fault.Of(err) != fault.Configuration {
			t.Errorf("%s: %v", name, err)
		}
		cancel()
	}
}

func TestDrainFinishesWhatIsUnderWay(t *testing.T) {
	t.Parallel()
	x := newTenant(t)
	x.standIn(t)
	s := start(t, x, func(c *Config) { c.Drain = time.Second })
	slow := make(chan answer, 1)
	go func() { slow <- s.post(t, "/inference", []byte("sleep 3")) }()
	eventually(t, "the slow request is being predicted", func() bool { return strings.Contains(s.get(t, "/metrics").body, "insitu_sessions_busy 1") })
	began := time.Now()
	s.stop()
	eventually(t, "readyz says so", func() bool { a := s.get(t, "/readyz"); return a.status == 503 && strings.Contains(a.body, "draining") })
	if a := s.post(t, "/inference", []byte("cat")); a.status != 200 {
		t.Errorf("a request while draining: %d %s", a.status, a.body)
	}
	if a := <-slow; a.status != 200 || a.body != `"slept"` {
		t.Errorf("the slow request: %d %s", a.status, a.body)
	}
	err := <-s.ended
	s.ended <- nil
	if took := time.Since(began); err != nil || took < time.Second || took > 8*time.Second {
		t.Errorf("Run ended after %s: %v", took, err)
	}
	if _, err := net.Dial("tcp", strings.TrimPrefix(s.url, "http://")); err == nil {
		t.Error("connections are still accepted")
	}
	eventually(t, "no session is left", func() bool { return x.open(t) == 0 })
}

func TestASlowUploadIsGivenUp(t *testing.T) {
	t.Parallel()
	x := newTenant(t)
	x.standIn(t)
	s := start(t, x, func(c *Config) { c.RequestTimeout = time.Second })
	u, err := url.Parse(s.url)
	if err != nil {
		t.Fatal(err)
	}
	c, err := net.Dial("tcp", u.Host)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	began := time.Now()
	_, _ = io.WriteString(c, "POST /inference HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\nContent-Type: multipart/form-data; boundary=x\r\n\r\n--x\r\n")
	_ = c.SetReadDeadline(time.Now().Add(20 * time.Second))
	text, err := textproto.NewReader(bufio.NewReader(c)).ReadLine()
	if err != nil || !strings.Contains(text, "408") || time.Since(began) > 5*time.Second {
		t.Errorf("after %s: %q, %v", time.Since(began), text, err)
	}
}

func TestUploadsNeedNoDisk(t *testing.T) {
	t.Setenv("TMPDIR", "/nonexistent")
	kind, body := form(t, bytes.Repeat([]byte{7}, 20<<20))
	r := httptest.NewRequestWithContext(t.Context(), http.MethodPost, "/inference", body)
	r.Header.Set("Content-Type", kind)
	got, p := files(httptest.NewRecorder(), r, 32<<20, 1)
	if p != nil || len(got) != 1 || len(got[0]) != 20<<20 {
		t.Errorf("%v", p)
	}
}

func FuzzUploadedForms(f *testing.F) {
	kind, body := form(f, []byte("one"), []byte("two"))
	f.Add(kind, body.Bytes())
	f.Add("multipart/form-data; boundary=x", []byte("--x\r\nContent-Disposition: form-data; name=file; filename=a\r\n\r\nb\r\n--x--"))
	f.Add("multipart/form-data; boundary=x", []byte("--x\r\nContent-Disposition: form-data; name=file; filename=a\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\n=41=\r\n--x--"))
	f.Add("multipart/form-data; boundary=\"\"", []byte("--\r\n\r\n"))
	f.Add("text/plain", []byte("hello"))
	const limit = 4096
	f.Fuzz(func(t *testing.T, kind string, body []byte) {
		r := httptest.NewRequestWithContext(t.Context(), http.MethodPost, "/inference", io.MultiReader(bytes.NewReader(body)))
		r.ContentLength = -1
		r.Header["Content-Type"] = []string{kind}
		got, p := files(httptest.NewRecorder(), r, limit, 3)
		if p != nil {
			switch p.status {
			case 400, 413, 422:
			default:
				t.Errorf("%d %s", p.status, p.msg)
			}
			if b, err := json.Marshal(p.body()); err != nil || p.msg == "" || p.kind == "" {
				t.Errorf("%s, %v", b, err)
			}
			return
		}
		size := 0
		for _, g := range got {
			size += len(g)
		}
		if len(got) == 0 || len(got) > 3 || size > limit || size > len(body) {
			t.Errorf("%d files of %d bytes out of %d", len(got), size, len(body))
		}
	})
}

// together posts one file a request, all of which wait while the only session sleeps, and returns their answers.
func (s *service) together(t *testing.T, commands ...string) []answer {
	t.Helper()
	eventually(t, "the session is idle", func() bool { // it is a moment after its last request was answered
		return s.get(t, "/readyz").status == 200 && strings.Contains(s.get(t, "/metrics").body, "insitu_sessions_busy 0")
	})
	var all sync.WaitGroup
	all.Add(1)
	go func() { defer all.Done(); s.post(t, "/inference", []byte("sleep 1.5")) }()
	eventually(t, "the session sleeps", func() bool { return strings.Contains(s.get(t, "/metrics").body, "insitu_sessions_busy 1") })
	answers := make([]answer, len(commands))
	for i, command := range commands {
		all.Add(1)
		go func() {
			defer all.Done()
			path := "/v1/predict"
			if i%2 == 1 {
				path = "/inference"
			}
			answers[i] = s.post(t, path, []byte(command))
		}()
	}
	eventually(t, "all wait", func() bool {
		return strings.Contains(s.get(t, "/metrics").body, fmt.Sprintf("insitu_requests_waiting %d\n", len(commands)))
	})
	all.Wait()
	return answers
}

func (s *service) batches(t *testing.T) (n int) {
	t.Helper()
	_, after, _ := strings.Cut(s.get(t, "/metrics").body, "\ninsitu_batches_total ")
	if _, err := fmt.Sscan(after, &n); err != nil {
		t.Fatal(err)
	}
	return n
}

func TestRequestsThatWaitArePredictedTogether(t *testing.T) {
	t.Parallel()
	x := newTenant(t)
	x.standIn(t)
	s := start(t, x, func(c *Config) { c.Sessions = 1 })
	before := s.batches(t)
	for i, a := range s.together(t, "a", "b", "c", "d", "e", "f", "g", "h", "i", "j") {
		if a.status != 200 || !strings.Contains(a.body, `"cat <&>"`) {
			t.Errorf("request %d: %d %s", i, a.status, a.body)
		}
	}
	if n := s.batches(t) - before; n != 2 { // the one that slept, and ten
		t.Errorf("%d statements for eleven requests", n)
	}
}

func TestAFileThatIsRefusedKeepsNoOtherRequestFromItsAnswer(t *testing.T) {
	t.Parallel()
	x := newTenant(t)
	x.standIn(t)
	s := start(t, x, func(c *Config) { c.Sessions = 1 })
	for bad, want := range map[string]int{"raise IS001": 422, "raise IS005": 413, "raise 38000": 500, "raise 53200": 503, "die": 503} {
		for i, a := range s.together(t, "a", "b", bad, "d", "e", bad, "g") {
			want := want
			if i != 2 && i != 5 {
				want = 200
			}
			if a.status != want {
				t.Errorf("%s: request %d: %d %s, want %d", bad, i, a.status, a.body, want)
			}
		}
		eventually(t, "the session is there again", func() bool { return s.post(t, "/inference", []byte("h")).status == 200 }) // the last request may have ended it
	}
}

func TestABatchHasBoundsAndLeavesTheOtherSessionsTheirShare(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct{ sessions, waiting, files, bytes, want int }{
		"none waits":           {sessions: 4, waiting: 0, files: 1, bytes: 1, want: 1},
		"a share":              {sessions: 4, waiting: 12, files: 1, bytes: 1, want: 4},
		"a share, rounded up":  {sessions: 4, waiting: 1, files: 1, bytes: 1, want: 2},
		"one session takes it": {sessions: 1, waiting: 12, files: 1, bytes: 1, want: 13},
		"pictures":             {sessions: 1, waiting: 99, files: 16, bytes: 1, want: 4},
		"bytes":                {sessions: 1, waiting: 99, files: 1, bytes: batchBytes/2 + 1, want: 2},
	} {
		s, err := newSessions(Config{Sessions: c.sessions, Queue: 200})
		if err != nil {
			t.Fatal(err)
		}
		img := make([]byte, c.bytes)
		made := func() *call {
			one := &call{ctx: t.Context()}
			for range c.files {
				one.imgs = append(one.imgs, img)
			}
			return one
		}
		for range c.waiting {
			s.pictures <- made()
		}
		if got := len(s.gather(made())); got != c.want {
			t.Errorf("%s: a batch of %d, want %d", name, got, c.want)
		}
	}
}

func TestASessionWaitsForAsManyPicturesAsTheOthersPredict(t *testing.T) {
	t.Parallel()
	gather := func(others ...int) (batch int) {
		s, err := newSessions(Config{Sessions: 2, Queue: 200})
		if err != nil {
			t.Fatal(err)
		}
		s.took = time.Minute
		for _, pictures := range others {
			defer s.together(pictures)()
		}
		made := func() *call { return &call{ctx: t.Context(), imgs: make([][]byte, 1)} }
		for range 4 {
			s.pictures <- made()
		}
		return len(s.gather(made()))
	}
	if got := gather(2, 4); got != 3 {
		t.Errorf("a batch of %d where the others have three, want its share, 3", got)
	}
	for range 20 { // on a busy machine the wait may be over before the test has run on
		if gather(6) == 5 {
			return
		}
	}
	t.Error("a session did not take what waited, where the other one has six")
}

func TestASessionWaitsShortlyAndForNoneThatIsIdle(t *testing.T) {
	t.Parallel()
	s, err := newSessions(Config{Sessions: 3})
	if err != nil {
		t.Fatal(err)
	}
	first, second := s.together(2), s.together(6)
	s.took = time.Millisecond
	if pictures, wait := s.others(); pictures != 4 || wait != time.Millisecond/2 {
		t.Errorf("%d pictures, %s; want what a session has, 4, and half of the last statement's time", pictures, wait)
	}
	s.took = time.Hour
	if _, wait := s.others(); wait != batchWait {
		t.Errorf("a wait of %s, want %s at most", wait, batchWait)
	}
	first()
	second()
	if pictures, wait := s.others(); pictures != 0 || wait != 0 || s.took == time.Hour {
		t.Errorf("%d pictures, %s, took %s; want none, and what the last statement took", pictures, wait, s.took)
	}
}

func TestABatchIsCancelledWhenNobodyWaitsForItAnyMore(t *testing.T) {
	t.Parallel()
	first, leave := context.WithCancel(t.Context())
	second, leaveToo := context.WithCancel(t.Context())
	ctx, cancel := untilAllAreGone([]*call{{ctx: first}, {ctx: second}})
	defer cancel()
	leaveToo()
	select {
	case <-ctx.Done():
		t.Error("cancelled while one still waits")
	case <-time.After(50 * time.Millisecond):
	}
	leave()
	select {
	case <-ctx.Done():
	case <-time.After(5 * time.Second):
		t.Error("not cancelled")
	}
}

func TestRowsOfColumnsArePredictedOrRefusedWithAReason(t *testing.T) {
	t.Parallel()
	x := newTenant(t)
	x.standIn(t)
	s := start(t, x, nil)
	for name, c := range map[string]struct {
		body, want string // status and what the answer begins with
	}{
		"objects":                {`{"rows": [{"label": "bee"}, {"label": "ant <&>"}]}`, `200 {"predictions":[{"label":"bee","probabilities":[{"label":"cat","probability":0.5},{"label":"ant","probability":0.25},{"label":"bee","probability":0.25}]},{"label":"ant <&>",`},
		"arrays":                 {`{"rows": [["bee", 1, null, true]], "top": 1}`, `200 {"predictions":[{"label":"bee","probabilities":[{"label":"cat","probability":0.5}]}],"model":{"name":"cats","version":1},"milliseconds":`},
		"a row that fits not":    {`{"rows": [{"label": "bee"}, {"raise": "IS007"}]}`, `422 {"detail":[{"loc":["body","rows",1],"msg":"it has no column 'a'; its columns are a, b","type":"wrong_row"}]}`},
		"no model":               {`{"rows": [{"raise": "IS003"}]}`, `503 {"detail":[{"loc":[],"msg":"it has no column`},
		"no rows":                {`{}`, `422 {"detail":[{"loc":["body","rows"],"msg":"Field required","type":"missing"}]}`},
		"rows of nothing":        {`{"rows": []}`, `422 {"detail":[{"loc":["body","rows"],"msg":"expected an array of rows","type":"value_error"}]}`},
		"rows that are null":     {`{"rows": null}`, `422 {"detail":[{"loc":["body","rows"],"msg":"expected an array of rows","type":"value_error"}]}`},
		"rows that are a text":   {`{"rows": "a"}`, `422 {"detail":[{"loc":["body","rows"],"msg":"expected an array of rows","type":"value_error"}]}`},
		"a row that is a text":   {`{"rows": [[1], "a"]}`, `422 {"detail":[{"loc":["body","rows",1],"msg":"expected an object of columns or an array of values","type":"value_error"}]}`},
		"a nested row":           {`{"rows": [{"a": [1]}]}`, `422 {"detail":[{"loc":["body","rows",0],"msg":"expected plain values, found an array or an object among them","type":"value_error"}]}`},
		"a number beyond float":  {`{"rows": [[1e999]]}`, `422 {"detail":[{"loc":["body","rows",0],"msg":"it cannot be read: `},
		"1001 rows":              {`{"rows": [` + strings.Repeat(`[1],`, 1000) + `[1]]}`, `422 {"detail":[{"loc":["body","rows"],"msg":"more rows than expected: 1000 at most","type":"too_many"}]}`},
		"top of 0":               {`{"rows": [[1]], "top": 0}`, `422 {"detail":[{"loc":["body","top"],"msg":"expected a whole number of at least 1","type":"value_error"}]}`},
		"top of text":            {`{"rows": [[1]], "top": "x"}`, `422 {"detail":[{"loc":["body","top"],`},
		"an unknown property":    {`{"rows": [[1]], "row": 1}`, `400 {"detail":[{"loc":["body"],"msg":"the JSON cannot be read: json: unknown field \"row\"","type":"broken_json"}]}`},
		"half of it":             {`{"rows": [[1`, `400 {"detail":[{"loc":["body"],"msg":"the JSON cannot be read: unexpected EOF","type":"broken_json"}]}`},
		"more than it":           {`{"rows": [[1]]} {}`, `400 {"detail":[{"loc":["body"],"msg":"the JSON cannot be read: something follows the object","type":"broken_json"}]}`},
		"bytes that are no text": {"{\"rows\": [[\"\xff\"]]}", `400 {"detail":[{"loc":["body"],"msg":"the JSON cannot be read: it is not UTF-8","type":"broken_json"}]}`},
		"deep":                   {`{"rows": ` + strings.Repeat("[", 20000) + strings.Repeat("]", 20000) + `}`, `400 {"detail":[{"loc":["body"],"msg":"the JSON cannot be read: `},
		"too large":              {`{"rows": [["` + strings.Repeat("a", 1<<20) + `"]]}`, `413 {"detail":[{"loc":["body"],"msg":"the request has more than 1048576 bytes","type":"too_large"}]}`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for _, body := range []io.Reader{strings.NewReader(c.body), io.MultiReader(strings.NewReader(c.body))} { // of known length and not
				a := s.send(t, "/v1/predict", "application/json; charset=utf-8", body)
				if got := fmt.Sprint(a.status, " ", a.body); !strings.HasPrefix(got, c.want) {
					t.Errorf("%s, want %s", got, c.want)
				}
			}
		})
	}
}

func TestRowsGoThroughTheDeployedFunctions(t *testing.T) {
	t.Parallel()
	x := newTenant(t)
	x.deploy(t)
	x.activate(t, 1, 2)
	s := start(t, x, nil)
	d := digits(t, 1)[0]
	values := make([]int, len(d.pixels))
	for i, pixel := range d.pixels {
		values[i] = int(pixel)
	}
	send := func(rows ...any) answer {
		t.Helper()
		text, err := json.Marshal(map[string]any{"rows": rows, "top": 1})
		if err != nil {
			t.Fatal(err)
		}
		return s.send(t, "/v1/predict", "application/json", bytes.NewReader(text))
	}
	a := send(values, values)
	var p predicted
	if err := json.Unmarshal([]byte(a.body), &p); err != nil || len(p.Predictions) != 2 || p.Predictions[1].Label != d.label || len(p.Predictions[1].Probabilities) != 1 || p.Model.Version != 2 {
		t.Errorf("%d %s", a.status, a.body)
	}
	for want, row := range map[string]any{
		"it has 63 values, the model takes 64":                   values[1:],
		"it is an object, and the model knows no names":          map[string]any{"a": 1},
		"value 1 is null; expected a number":                     append([]any{nil}, make([]any, 63)...),
		"value 64: 99.0 is out of the input's range [0.0, 16.0]": append(append([]int{}, values[:63]...), 99),
	} {
		a := send(values, row)
		if kind, msg, loc := a.problem(t); a.status != 422 || kind != "wrong_row" || loc != `["body","rows",1]` || !strings.HasPrefix(msg, want) {
			t.Errorf("%d %s, want %s", a.status, a.body, want)
		}
	}
}

func TestASchemaOfAnOlderReleaseSaysThatItTakesNoRows(t *testing.T) {
	t.Parallel()
	x := newTenant(t)
	x.standIn(t)
	x.exec(t, "drop function predict_rows(json)")
	s := start(t, x, nil)
	a := s.send(t, "/v1/predict", "application/json", strings.NewReader(`{"rows": [[1]]}`))
	if kind, msg, _ := a.problem(t); a.status != 501 || kind != "not_supported" || !strings.Contains(msg, "deploy-inference-db") {
		t.Errorf("%d %s", a.status, a.body)
	}
}

func TestAPredictionOfACanaryNamesItsModel(t *testing.T) {
	t.Parallel()
	x := newTenant(t)
	x.standIn(t)
	x.exec(t, `create or replace function predict_batch(imgs bytea[]) returns table (index int, label text, probabilities json, model_name text, model_version int) language sql as
  $$ select n::int, label, probabilities, model_name, n::int from unnest(imgs) with ordinality as x (img, n), predict(img) p $$`)
	s := start(t, x, nil)
	a := s.post(t, "/v1/predict?top=1", []byte("a"), []byte("b"))
	if want := `{"predictions":[{"label":"cat <&>","probabilities":[{"label":"cat","probability":0.5}]},{"label":"cat <&>","probabilities":[{"label":"cat","probability":0.5}],"model":{"name":"cats","version":2}}],"model":{"name":"cats","version":1},`; !strings.HasPrefix(a.body, want) {
		t.Errorf("%d %s", a.status, a.body)
	}
	if metrics := s.get(t, "/metrics").body; !strings.Contains(metrics, `insitu_predictions_total{model="cats",version="2"} 1`) {
		t.Error("the canary's prediction is not counted as its")
	}
}

func TestPagesOfListedOriginsMayReadAnswers(t *testing.T) {
	t.Parallel()
	x := newTenant(t)
	x.standIn(t)
	const ours = "https://app.example.com"
	listed := start(t, x, func(c *Config) { c.Origins, c.Token = []string{"http://localhost:3000", ours}, "s3cret-token" })
	none := start(t, x, nil)
	ask := func(s *service, method, path, origin string) (int, http.Header) {
		t.Helper()
		r, err := http.NewRequestWithContext(t.Context(), method, s.url+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Origin", origin)
		if method == http.MethodOptions {
			r.Header.Set("Access-Control-Request-Method", http.MethodPost)
			r.Header.Set("Access-Control-Request-Headers", "authorization,content-type")
		}
		resp, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
		return resp.StatusCode, resp.Header
	}
	for name, c := range map[string]struct {
		s                    *service
		method, path, origin string
		status               int
		allowed              string
	}{
		"asks before":              {listed, "OPTIONS", "/v1/predict", ours, 204, ours},
		"reads why it is refused":  {listed, "GET", "/v1/model", ours, 401, ours},
		"another site":             {listed, "OPTIONS", "/v1/predict", "https://app.example.com.evil.example", 405, ""},
		"a sandbox":                {listed, "OPTIONS", "/v1/predict", "null", 405, ""},
		"what is no prediction":    {listed, "GET", "/metrics", ours, 200, ""},
		"off":                      {none, "OPTIONS", "/v1/predict", ours, 405, ""},
		"off, and a whole request": {none, "GET", "/v1/model", ours, 200, ""},
	} {
		status, h := ask(c.s, c.method, c.path, c.origin)
		if status != c.status || h.Get("Access-Control-Allow-Origin") != c.allowed || h.Get("Access-Control-Allow-Credentials") != "" || (h.Get("Vary") == "Origin") != (c.s == listed) {
			t.Errorf("%s: %d %v", name, status, h)
		}
		if asked := h.Get("Access-Control-Allow-Methods") == http.MethodPost && strings.Contains(h.Get("Access-Control-Allow-Headers"), "Authorization"); asked != (status == 204) {
			t.Errorf("%s: %v", name, h)
		}
	}
}

func FuzzRows(f *testing.F) {
	for _, text := range []string{`{"rows": [{"a": 1}, [2, "x", null, true]], "top": 3}`, `{"rows": [[1e999]]}`, `{"rows": null}`, `{"rows": [[1]]} x`, `[`, "{\"rows\": [[\"\xff\"]]}", `{"top": 1.5}`, `{"rows":[[1]],"rows":[]}`} {
		f.Add([]byte(text))
	}
	const limit = 4096
	f.Fuzz(func(t *testing.T, text []byte) {
		r := httptest.NewRequestWithContext(t.Context(), http.MethodPost, "/v1/predict", io.MultiReader(bytes.NewReader(text)))
		r.ContentLength = -1
		got, p := readTable(httptest.NewRecorder(), r, limit)
		if p != nil {
			if p.status != 400 && p.status != 413 && p.status != 422 || p.msg == "" || p.kind == "" {
				t.Errorf("%d %s", p.status, p.msg)
			}
			return
		}
		var rows []any
		if err := json.Unmarshal(got.rows, &rows); err != nil || len(rows) != got.n || got.n < 1 || got.n > maxRows || got.top < 0 || len(text) > limit {
			t.Errorf("%d rows, top %d of %s: %v", got.n, got.top, got.rows, err)
		}
		for _, row := range rows {
			switch row.(type) {
			case []any, map[string]any:
			default:
				t.Errorf("a row that is %v", row)
			}
		}
	})
}

func TestTheReportOfTheActiveVersionIsServed(t *testing.T) {
	t.Parallel()
	x := newTenant(t)
	x.deploy(t)
	s := start(t, x, func(c *Config) { c.Token = "s3cret-token" })
	get := func(path, token string) answer {
		t.Helper()
		r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, s.url+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		if token != "" {
			r.Header.Set("Authorization", "Bearer "+token)
		}
		return s.do(t, r)
	}
	link := func() string {
		t.Helper()
		a := get("/v1/model", "s3cret-token")
		var m Model
		if err := json.Unmarshal([]byte(a.body), &m); err != nil {
			t.Fatal(a.body)
		}
		return m.Report
	}
	x.activate(t, 1, 1)
	x.exec(t, "grant select on model_versions to \""+x.config.Username+"\"")
	none := func(what string) {
		t.Helper()
		if a := get("/v1/report", "s3cret-token"); a.status != 404 || !strings.Contains(a.body, "no_report") || link() != "" {
			t.Errorf("%s: %d %s, link %q", what, a.status, a.body, link())
		}
	}
	none("no right to read reports")
	x.exec(t, "grant select on model_reports to \""+x.config.Username+"\"")
	none("no report")
	x.exec(t, "insert into model_reports values ('digits', 2, 'two')")
	none("the report of another version")
	x.exec(t, "insert into model_reports values ('digits', 1, 'one')")
	a := get("/v1/report", "s3cret-token")
	if a.status != 200 || a.body != "one" || a.header.Get("Content-Type") != "text/html; charset=utf-8" || !strings.HasPrefix(a.header.Get("Content-Security-Policy"), "sandbox; default-src 'none'; ") {
		t.Errorf("%d %q %v", a.status, a.body, a.header)
	}
	if a := get("/v1/report", ""); a.status != 401 {
		t.Errorf("without a token: %d", a.status)
	}
	x.activate(t, 2, 2)
	ticket := link()
	if a := get("/"+ticket, ""); a.status != 200 || a.body != "two" {
		t.Errorf("with %s: %d %q", ticket, a.status, a.body)
	}
	for what, path := range map[string]string{
		"a forged ticket":          "/" + ticket[:len(ticket)-1] + string("01"[int(ticket[len(ticket)-1]+1)%2]),
		"a ticket that lasts long": "/v1/report?ticket=9" + strings.TrimPrefix(ticket, "v1/report?ticket="),
		"a ticket that has ended":  "/v1/report?ticket=" + (&api{config: Config{Token: "s3cret-token"}}).ticket(time.Now().Add(-2*time.Second)),
		"of another token":         "/v1/report?ticket=" + (&api{config: Config{Token: "other"}}).ticket(time.Now().Add(time.Minute)),
		"no ticket":                "/v1/report?ticket=",
		"a ticket elsewhere":       "/v1/model?" + strings.TrimPrefix(ticket, "v1/report?"),
	} {
		if a := get(path, ""); a.status != 401 {
			t.Errorf("%s, %s: %d", what, path, a.status)
		}
	}
	if strings.Contains(s.log.String(), "ticket") {
		t.Error("the log holds tickets")
	}

	open := start(t, x, nil)
	if a := open.get(t, "/v1/model"); !strings.Contains(a.body, `"report":"v1/report"`) || !strings.Contains(a.body, `"input":{"shape":[8,8]`) {
		t.Errorf("without a token: %s", a.body)
	}
	if a := open.get(t, "/v1/report"); a.status != 200 {
		t.Errorf("without a token: %d", a.status)
	}
}
