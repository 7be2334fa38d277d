package serve

import (
	"bufio"
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"
)

func TestThePageIsOneAnswerThatTalksToItsServiceOnly(t *testing.T) {
	t.Parallel()
	p := startPage()
	html := string(p.html)
	for _, foreign := range []string{"{{", "http:", "https:", "src=\"", "@import", "url(", "<link rel=\"style", "innerHTML", "eval(", "localStorage", "sessionStorage", "document.cookie"} {
		if strings.Contains(strings.ReplaceAll(html, "http://www.w3.org/2000/svg", ""), foreign) {
			t.Errorf("the page has %q", foreign)
		}
	}
	for _, tag := range []string{"style", "script"} {
		whole := regexp.MustCompile(`(?s)<` + tag + `>(.*?)</` + tag + `>`).FindStringSubmatch(html)
		if whole == nil || !strings.Contains(p.policy, tag+"-src "+hashSource(whole[1])+";") {
			t.Errorf("the policy does not allow the page's %s: %s", tag, p.policy)
		}
	}
	if strings.Contains(p.policy, "unsafe") || !strings.HasPrefix(p.policy, "default-src 'none';") {
		t.Error(p.policy)
	}
}

// browser is a headless Chromium with one page, spoken to over its pipe by the DevTools protocol.
type browser struct {
	out    io.Writer
	mu     sync.Mutex
	id     int
	wait   map[int]chan json.RawMessage
	page   string // its session
	broken []string
}

// open starts Chromium on a page of the service.
func open(t *testing.T, url string) *browser {
	t.Helper()
	program := ""
	for _, name := range []string{"chromium", "chromium-browser", "google-chrome"} {
		if found, err := exec.LookPath(name); err == nil && program == "" {
			program = found
		}
	}
	if program == "" {
		t.Skip("needs a browser: no chromium on the PATH (scripts/install.sh test installs it)")
	}
	theirs, out, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	in, answers, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	profile := t.TempDir()
	ctx, stop := context.WithCancel(context.Background())
	c := exec.CommandContext(ctx, program, "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run", "--no-proxy-server", "--disable-background-networking",
		"--user-data-dir="+profile, "--remote-debugging-pipe", "about:blank")
	c.ExtraFiles = []*os.File{theirs, answers} // 3 and 4 are what the protocol expects
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	_, _ = theirs.Close(), answers.Close()
	b := &browser{out: out, wait: map[int]chan json.RawMessage{}}
	read := make(chan struct{})
	go func() { b.read(in); close(read) }()
	t.Cleanup(func() {
		_ = out.Close() // Chromium ends with its pipe
		select {
		case <-read:
		case <-time.After(10 * time.Second):
		}
		stop()
		_ = c.Wait()
		_ = in.Close()
		// Its children write to the profile a little longer.
		for deadline := time.Now().Add(5 * time.Second); os.RemoveAll(profile) != nil && time.Now().Before(deadline); {
			time.Sleep(50 * time.Millisecond)
		}
	})
	var target struct{ TargetID, SessionID string }
	b.call(t, "Target.createTarget", map[string]any{"url": "about:blank"}, &target)
	b.call(t, "Target.attachToTarget", map[string]any{"targetId": target.TargetID, "flatten": true}, &target)
	b.page = target.SessionID
	for _, domain := range []string{"Page", "Runtime", "Log", "DOM"} {
		b.call(t, domain+".enable", nil, nil)
	}
	b.call(t, "Page.navigate", map[string]any{"url": url}, nil)
	b.until(t, "the page is there", `document.readyState === "complete" && location.href !== "about:blank"`)
	return b
}

func (b *browser) read(in io.Reader) {
	r := bufio.NewReader(in)
	for {
		text, err := r.ReadBytes(0)
		if err != nil {
			return
		}
		var m struct {
			ID     int
			Method string
			Result json.RawMessage
			Error  json.RawMessage
			Params json.RawMessage
		}
		if json.Unmarshal(bytes.TrimSuffix(text, []byte{0}), &m) != nil {
			continue
		}
		b.mu.Lock()
		if m.Method == "Runtime.exceptionThrown" || m.Method == "Log.entryAdded" && bytes.Contains(m.Params, []byte(`"source":"security"`)) {
			b.broken = append(b.broken, string(m.Params))
		}
		if done := b.wait[m.ID]; done != nil && m.ID > 0 {
			if m.Error != nil {
				m.Result = m.Error
			}
			done <- m.Result
			delete(b.wait, m.ID)
		}
		b.mu.Unlock()
	}
}

// call sends one command of the protocol and reads its result.
func (b *browser) call(t *testing.T, method string, params, result any) {
	t.Helper()
	b.mu.Lock()
	b.id++
	done := make(chan json.RawMessage, 1)
	b.wait[b.id] = done
	if params == nil {
		params = struct{}{}
	}
	text, err := json.Marshal(map[string]any{"id": b.id, "method": method, "params": params})
	if b.page != "" {
		text, err = json.Marshal(map[string]any{"id": b.id, "method": method, "params": params, "sessionId": b.page})
	}
	if err == nil {
		_, err = b.out.Write(append(text, 0))
	}
	b.mu.Unlock()
	if err != nil {
		t.Fatalf("%s: %v", method, err)
	}
	select {
	case answer := <-done:
		if result != nil {
			err = json.Unmarshal(answer, result)
		}
		if err != nil || bytes.HasPrefix(answer, []byte(`{"code"`)) {
			t.Fatalf("%s: %s, %v", method, answer, err)
		}
	case <-time.After(30 * time.Second):
		t.Fatalf("%s: no answer of the browser within 30 s", method)
	}
}

// do evaluates JavaScript in the page and returns its value.
func (b *browser) do(t *testing.T, script string) any {
	t.Helper()
	var r struct {
		Result           struct{ Value any }
		ExceptionDetails json.RawMessage
	}
	b.call(t, "Runtime.evaluate", map[string]any{"expression": script, "awaitPromise": true, "returnByValue": true}, &r)
	if r.ExceptionDetails != nil {
		t.Fatalf("%s: %s", script, r.ExceptionDetails)
	}
	return r.Result.Value
}

func (b *browser) until(t *testing.T, what, script string) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); b.do(t, script) != true; time.Sleep(30 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within 20 s: %s; the page says: %v", what, b.do(t, "document.body?.innerText"))
		}
	}
}

// sees waits until the page shows all of the texts.
func (b *browser) sees(t *testing.T, texts ...string) {
	t.Helper()
	for _, text := range texts {
		quoted, _ := json.Marshal(text)
		b.until(t, text, "document.body.innerText.includes("+string(quoted)+")")
	}
}

// choose puts files into the page's field, as its dialog would.
func (b *browser) choose(t *testing.T, files ...string) {
	t.Helper()
	var document struct{ Root struct{ NodeID int } }
	b.call(t, "DOM.getDocument", nil, &document)
	var field struct{ NodeID int }
	b.call(t, "DOM.querySelector", map[string]any{"nodeId": document.Root.NodeID, "selector": "#files"}, &field)
	b.call(t, "DOM.setFileInputFiles", map[string]any{"nodeId": field.NodeID, "files": files}, nil)
}

func (b *browser) press(t *testing.T, key string, code int) {
	t.Helper()
	for _, kind := range []string{"rawKeyDown", "keyUp"} {
		b.call(t, "Input.dispatchKeyEvent", map[string]any{"type": kind, "key": key, "code": key, "windowsVirtualKeyCode": code}, nil)
	}
}

// fits sets the size and the scheme of the window, and fails if the page is wider than that.
// INSITU_TEST_SCREENSHOTS is a directory to keep pictures of what was tested.
func (b *browser) fits(t *testing.T, name string, width, height int, dark bool) {
	t.Helper()
	scheme := "light"
	if dark {
		scheme = "dark"
	}
	b.call(t, "Emulation.setDeviceMetricsOverride", map[string]any{"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500}, nil)
	b.call(t, "Emulation.setEmulatedMedia", map[string]any{"features": []map[string]string{{"name": "prefers-color-scheme", "value": scheme}}}, nil)
	if wide := b.do(t, "document.documentElement.scrollWidth"); wide.(float64) > float64(width) {
		t.Errorf("%s: the page is %v wide in a window of %d", name, wide, width)
	}
	dir := os.Getenv("INSITU_TEST_SCREENSHOTS")
	if dir == "" {
		return
	}
	time.Sleep(time.Second) // a frame with an origin of its own is painted by another process, later
	var shot struct{ Data string }
	b.call(t, "Page.captureScreenshot", map[string]any{"format": "png", "captureBeyondViewport": true}, &shot)
	picture, err := base64.StdEncoding.DecodeString(shot.Data)
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, name+".png"), picture, 0o644)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// clean fails if a script threw or the policy refused something.
func (b *browser) clean(t *testing.T) {
	t.Helper()
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, text := range b.broken {
		t.Error(text)
	}
}

// save writes files for the page's field.
func save(t *testing.T, files map[string][]byte) (all []string) {
	t.Helper()
	dir := t.TempDir()
	for name, content := range files {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, content, 0o644); err != nil {
			t.Fatal(err)
		}
		all = append(all, path)
	}
	return all
}

func TestThePageWaitsForAModelAndThenPredicts(t *testing.T) {
	t.Parallel()
	x := newTenant(t)
	s := start(t, x, func(c *Config) { c.MLflowURL = "https://mlflow.example.com/" })
	b := open(t, s.url)
	b.sees(t, "Waiting for a model", "No model has been deployed in this schema yet.")
	b.fits(t, "waiting", 1100, 700, false)
	if b.do(t, `getComputedStyle(document.getElementById("drop")).display`) != "none" {
		t.Error("pictures can be dropped that no model takes")
	}

	x.deploy(t)
	x.exec(t, `update models set metrics = '{"test_accuracy": 0.98765, "test_f1": 0.8125}'`)
	x.exec(t, "grant select on model_versions to \""+x.config.Username+"\"")
	x.activate(t, 1, 1)
	b.sees(t, "digits · version 1", "98.8 %", "0.813", "Choose pictures") // without anything being clicked
	if href := b.do(t, `document.getElementById("mlflow").href`); href != "https://mlflow.example.com/#/models/digits/versions/1" {
		t.Errorf("MLflow is said to be at %v", href)
	}
	if b.do(t, `document.getElementById("open").checkVisibility()`) != false {
		t.Error("a report is offered that the role may not read")
	}
	all := digits(t, 4)
	files := map[string][]byte{"no picture.txt": []byte("hello world")}
	for i, d := range all {
		files[fmt.Sprintf("digit %d.png", i)] = greyPNG(t, d)
	}
	b.choose(t, save(t, files)...)
	b.sees(t, "The bytes are neither an image")
	b.until(t, "four answers", `document.querySelectorAll("#results > li:not(.pending):not(.failed)").length === 4`)
	for i, d := range all {
		script := fmt.Sprintf(`[...document.querySelectorAll("#results > li")].filter(li => li.querySelector(".file").textContent === "digit %d.png").map(li => [
			li.querySelector(".label").textContent, li.querySelectorAll(".bars li").length, /^digits · version 1 · [0-9.]+ ms$/.test(li.querySelector(".made").textContent),
			li.querySelector("img").naturalWidth, li.querySelector(".track i").getBoundingClientRect().width > li.querySelectorAll(".track i")[1].getBoundingClientRect().width])`, i)
		got, _ := json.Marshal(b.do(t, script))
		if want := fmt.Sprintf(`[[%q,5,true,64,true]]`, d.label); string(got) != want {
			t.Errorf("digit %d: %s, want %s", i, got, want)
		}
	}
	b.fits(t, "results", 1100, 900, false)
	b.fits(t, "dark", 1100, 900, true)
	b.fits(t, "phone", 390, 844, false)
	b.fits(t, "phone-dark", 390, 844, true)

	// By keyboard: the field is the first thing after the links, and the list can be cleared.
	b.do(t, `document.activeElement.blur()`)
	var order []string
	for range 5 {
		b.press(t, "Tab", 9)
		order = append(order, fmt.Sprint(b.do(t, `document.activeElement.id || document.activeElement.textContent`)))
	}
	if got := strings.Join(order[:4], ", "); got != "API, mlflow, files, clear" {
		t.Errorf("the tabulator goes to %s", got)
	}
	b.do(t, `document.getElementById("clear").focus()`)
	b.call(t, "Input.dispatchKeyEvent", map[string]any{"type": "keyDown", "key": "Enter", "code": "Enter", "text": "\r", "windowsVirtualKeyCode": 13}, nil)
	b.until(t, "an empty list", `document.querySelectorAll("#results > li").length === 0`)

	// A picture that is dropped, and one that is pasted.
	for name, script := range map[string]string{
		"dropped": `const data = new DataTransfer(); data.items.add(file); document.body.dispatchEvent(new DragEvent("drop", {dataTransfer: data, bubbles: true, cancelable: true}))`,
		"pasted":  `const data = new DataTransfer(); data.items.add(file); document.body.dispatchEvent(new ClipboardEvent("paste", {clipboardData: data, bubbles: true, cancelable: true}))`,
	} {
		encoded := base64.StdEncoding.EncodeToString(greyPNG(t, all[0]))
		b.do(t, fmt.Sprintf(`(() => { const file = new File([Uint8Array.from(atob(%q), c => c.charCodeAt(0))], %q, {type: "image/png"}); %s })()`, encoded, name+".png", script))
		b.until(t, name, fmt.Sprintf(`[...document.querySelectorAll("#results > li:not(.pending):not(.failed)")].some(li => li.querySelector(".file").textContent === %q && li.querySelector(".label").textContent === %q)`, name+".png", all[0].label))
	}
	b.clean(t)
}

func TestThePageTakesRowsForAModelOfColumns(t *testing.T) {
	t.Parallel()
	x := newTenant(t)
	x.standIn(t)
	x.exec(t, `create or replace function predict(img bytea) returns table (label text, probabilities json, model_name text, model_version int) language plpgsql as
  $$ begin raise exception 'the model''s input [2] is no picture; send its 2 raw values' using errcode = 'IS002'; end $$`)
	s := start(t, x, nil)
	b := open(t, s.url)
	b.sees(t, "cats · version 1", "Rows as JSON")
	if open := b.do(t, `document.getElementById("json").open && !document.getElementById("fields").checkVisibility()`); open != true {
		t.Error("a model that does not tell its columns can be asked by JSON alone, which is folded")
	}
	send := func(text string) {
		quoted, _ := json.Marshal(text)
		b.do(t, `document.getElementById("clear").click(); document.getElementById("rows").value = `+string(quoted)+`; document.getElementById("rows").focus()`)
		b.call(t, "Input.dispatchKeyEvent", map[string]any{"type": "keyDown", "key": "Enter", "code": "Enter", "windowsVirtualKeyCode": 13, "modifiers": 2}, nil) // Ctrl
	}
	send(`[{"label": "bee"}, {"label": "ant"}]`)
	b.until(t, "two rows", `[...document.querySelectorAll("#results .label")].map(x => x.textContent).join() === "bee,ant"`)
	b.fits(t, "rows", 1100, 700, false)
	b.fits(t, "rows-phone", 390, 844, true)
	send(`["wasp", 1]`) // one row
	b.until(t, "one row", `[...document.querySelectorAll("#results .label")].map(x => x.textContent).join() === "wasp"`)
	send(`[{"label": "bee"}, {"raise": "IS007"}]`)
	b.sees(t, "Row 2: it has no column 'a'; its columns are a, b.")
	send(`[{"label": `)
	b.sees(t, "This is no JSON")
	b.clean(t)
}

func TestThePageHasAFieldForEachColumn(t *testing.T) {
	t.Parallel()
	x := newTenant(t)
	x.standIn(t)
	x.exec(t, `create or replace function predict(img bytea) returns table (label text, probabilities json, model_name text, model_version int) language plpgsql as
  $$ begin raise exception 'the model''s input [2] is no picture; send its 2 raw values' using errcode = 'IS002'; end $$`)
	takes := func(columns, input string) {
		x.exec(t, "create or replace view model_versions as select 'cats'::text as name, 1 as version, 'abc'::text as digest, '{\"a\":1}'::json as metrics, now() as deployed_at, 'me'::text as deployed_by, true as active, false as pruned, '"+
			input+"'::json as input, '"+columns+"'::json as columns")
	}
	takes(`["label", "mean radius <b>", "income"]`, `{"dtype": "float32", "shape": [3]}`)
	s := start(t, x, nil)
	b := open(t, s.url)
	b.sees(t, "cats · version 1", "One row", "mean radius <b>", "Rows as JSON")
	fill := func(values string) {
		b.do(t, `(values => document.querySelectorAll("#columns input").forEach((field, i) => field.value = values[i]))(`+values+`)`)
		b.do(t, `document.querySelector("#fields button").click()`)
	}
	fill(`["", 2, 3]`)
	if b.do(t, `document.querySelectorAll("#results > li").length === 0 && !document.querySelector("#columns input").validity.valid`) != true {
		t.Error("a row without one of its values is sent")
	}
	fill(`[41.5, -2, 3]`)
	b.until(t, "the row's answer", `document.querySelector("#results .label")?.textContent === "41.5" && document.querySelector("#results .file").textContent === "label 41.5, mean radius <b> -2, income 3"`)
	if b.do(t, `document.querySelector("#columns input").value`) != "41.5" {
		t.Error("the values are gone: the next row may differ in one of them only")
	}
	b.fits(t, "fields", 1100, 700, false)
	b.fits(t, "fields-dark", 1100, 700, true)
	b.fits(t, "fields-phone", 390, 844, false)
	b.do(t, `document.getElementById("json").open = true; document.getElementById("rows").value = '[{"label": 7}, {"raise": "IS007"}]'; document.querySelector("#text button").click()`)
	b.sees(t, "Row 2: it has no column 'a'; its columns are a, b.")

	// Another model, of whole numbers in a range: the fields change, and with them what can be sent.
	takes(`["label", "b"]`, `{"dtype": "uint8", "shape": [2], "range": [0, 16]}`)
	b.do(t, "look()")
	b.until(t, "two fields", `document.querySelectorAll("#columns input").length === 2 && document.querySelector("#columns input").max === "16" && document.querySelector("#columns input").step === "1"`)
	many := `["c0"`
	for i := range 100 {
		many += fmt.Sprintf(`, "c%d"`, i+1)
	}
	takes(many+"]", `{"dtype": "float32"}`)
	b.do(t, "look()")
	b.until(t, "too many columns for fields", `!document.getElementById("fields").checkVisibility() && document.getElementById("json").open`)
	b.clean(t)
}

func TestThePageShowsTheEvaluationReport(t *testing.T) {
	t.Parallel()
	report, err := os.ReadFile("../report/testdata/passed.html")
	if err != nil {
		t.Fatal(err)
	}
	x := newTenant(t)
	x.deploy(t)
	x.activate(t, 1, 1)
	x.exec(t, `update models set metrics = '{"test_accuracy": 0.98765, "test_f1": 0.8125}'`)
	x.exec(t, "insert into model_reports values ('digits', 1, $1), ('digits', 2, $2)", report, []byte(`<!doctype html><html><title>evil</title><p>Version two<script>parent.document.title = "changed"; top.location = "about:blank"</script><img src="https://example.com/x.png" onerror="alert(1)"></html>`))
	x.exec(t, "grant select on model_versions, model_reports to \""+x.config.Username+"\"")
	s := start(t, x, func(c *Config) { c.Token = "s3cret-token" })
	b := open(t, s.url)
	b.sees(t, "This service wants a token")
	b.do(t, `document.getElementById("token").value = "s3cret-token"; document.querySelector("#unlock button").click()`)
	b.sees(t, "digits · version 1", "98.8 %", "Evaluation report")
	shown := `(frame => new Promise(done => { frame.onload = () => done(frame.contentDocument === null); document.getElementById("open").click(); setTimeout(done, 10000, "never loaded") }))(document.getElementById("report"))`
	if got := b.do(t, shown); got != true { // its origin is another one
		t.Errorf("the report's frame: %v", got)
	}
	b.fits(t, "report", 1100, 1300, false)
	b.fits(t, "report-dark", 1100, 1300, true)
	b.fits(t, "report-phone", 390, 1100, false)
	b.clean(t)
	link := fmt.Sprint(b.do(t, `document.getElementById("alone").href`))
	if a := s.get(t, strings.TrimPrefix(link, s.url)); a.status != 200 || a.body != string(report) {
		t.Errorf("the report on a page of its own: %d", a.status)
	}
	b.do(t, `document.getElementById("close").click()`)
	if b.do(t, `document.getElementById("evaluation").checkVisibility() || document.activeElement.id !== "open"`) != false {
		t.Error("the report does not close, or the focus is lost")
	}
	// Another version is another report; and whatever it holds, it cannot reach the page around it.
	b.do(t, `document.getElementById("open").click()`)
	x.activate(t, 2, 2)
	b.do(t, "look()")
	b.sees(t, "digits · version 2")
	if b.do(t, `document.getElementById("evaluation").checkVisibility()`) != false {
		t.Error("the report of the version before is still shown")
	}
	if got := b.do(t, shown); got != true {
		t.Errorf("the second report's frame: %v", got)
	}
	time.Sleep(300 * time.Millisecond)
	if title := b.do(t, "document.title"); title != "digits – Insitu" {
		t.Errorf("the report changed the page around it: %v", title)
	}
}

func TestThePageAsksForTheTokenAndKeepsItToItself(t *testing.T) {
	t.Parallel()
	x := newTenant(t)
	x.standIn(t)
	s := start(t, x, func(c *Config) { c.Token = "s3cret-token" })
	b := open(t, s.url)
	b.sees(t, "This service wants a token")
	b.fits(t, "token", 1100, 700, false)
	give := func(token string) {
		b.do(t, `document.getElementById("token").focus()`)
		b.call(t, "Input.insertText", map[string]any{"text": token}, nil)
		b.call(t, "Input.dispatchKeyEvent", map[string]any{"type": "keyDown", "key": "Enter", "code": "Enter", "text": "\r", "windowsVirtualKeyCode": 13}, nil)
	}
	give("wrong")
	b.sees(t, "That is not the token.")
	give("s3cret-token")
	b.sees(t, "cats · version 1")
	b.choose(t, save(t, map[string][]byte{"cat.bin": []byte("cat")})...)
	b.sees(t, "cat <&>", "no preview", "50.0 %") // markup in a label is text
	if kept := b.do(t, `localStorage.length + sessionStorage.length + document.cookie.length + location.href.includes("s3cret")`); kept != float64(0) {
		t.Errorf("the token is kept: %v", kept)
	}
	b.clean(t)
}

func TestThePageSaysWhatIsWrongWithTheDatabase(t *testing.T) {
	t.Parallel()
	x := newTenant(t)
	x.standIn(t)
	config, shut := gate(t, x)
	s := start(t, x, func(c *Config) { c.Database = databaseOf(config) })
	b := open(t, s.url)
	b.sees(t, "Out of reach", "The inference database does not answer.")
	shut(false)
	b.sees(t, "cats · version 1")
	b.choose(t, save(t, map[string][]byte{"a.bin": []byte("raise 38000"), "b.bin": []byte("raise IS004")})...)
	b.sees(t, "A mistake in the service", "Told to raise.")
	b.clean(t)
}
