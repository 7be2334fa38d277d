package lineage

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"
)

// Wait is how long the end of a step may be held up by catalogs, all of them together.
const Wait = 2 * time.Second

// waiting is how many reports a catalog may be behind; a step makes two.
const waiting = 2

// Config says which catalogs are told; the zero value is none.
type Config struct {
	// OpenLineage is the address of a server of OpenLineage's events, or the file: URL of a file that they are added to, one a line.
	OpenLineage         string
	OpenLineageEndpoint string // path of the server's API; "" is api/v1/lineage
	OpenLineageKey      string // bearer token
	// DataHub is the address of DataHub's metadata service (GMS), or the file: URL of a file that holds the proposals, each aspect once.
	DataHub      string
	DataHubToken string
}

// Enabled says whether there is a catalog to tell.
func (c Config) Enabled() bool { return c.OpenLineage != "" || c.DataHub != "" }

// catalog is one that is told.
type catalog struct {
	name string
	tell func(context.Context, Run) error
	runs chan Run
}

// Catalogs tells the configured catalogs, each in a goroutine of its own.
type Catalogs struct {
	list []*catalog
	done sync.WaitGroup

	mu   sync.Mutex
	warn func(catalog string, err error) // nil once Close gave up
}

// Open starts to tell the catalogs of the configuration. warn hears of each report that did not arrive, and of catalogs
// whose address cannot be used; it is not called after Close.
func Open(c Config, warn func(catalog string, err error)) *Catalogs {
	all := &Catalogs{warn: warn}
	all.add("OpenLineage", c.OpenLineage, func(u *url.URL) func(context.Context, Run) error {
		if u.Scheme == "file" {
			return func(ctx context.Context, r Run) error {
				event, err := openLineage(r)
				if err != nil {
					return err
				}
				return changeFile(ctx, u.Path, func(f *os.File) error { return appendLine(f, event) })
			}
		}
		target := u.JoinPath(orDefault(c.OpenLineageEndpoint, "api/v1/lineage")).String()
		return func(ctx context.Context, r Run) error {
			event, err := openLineage(r)
			if err != nil {
				return err
			}
			return post(ctx, target, c.OpenLineageKey, nil, event)
		}
	})
	all.add("DataHub", c.DataHub, func(u *url.URL) func(context.Context, Run) error {
		if u.Scheme == "file" {
			return func(ctx context.Context, r Run) error {
				return changeFile(ctx, u.Path, func(f *os.File) error { return mergeProposals(f, proposals(r)) })
			}
		}
		target := u.JoinPath("aspects").String() + "?action=ingestProposalBatch"
		return func(ctx context.Context, r Run) error {
			batch, err := batchOf(proposals(r))
			if err != nil {
				return err
			}
			return post(ctx, target, c.DataHubToken, map[string]string{"X-RestLi-Protocol-Version": "2.0.0"}, batch)
		}
	})
	for _, one := range all.list {
		all.done.Add(1)
		go func() {
			defer all.done.Done()
			for run := range one.runs {
				ctx, cancel := context.WithTimeout(context.Background(), Wait)
				if err := safely(ctx, one.tell, run); err != nil {
					all.say(one.name, fmt.Errorf("%s of run %s: %w", run.State, run.ID, err))
				}
				cancel()
			}
		}()
	}
	return all
}

func (all *Catalogs) add(name, address string, teller func(*url.URL) func(context.Context, Run) error) {
	if address == "" {
		return
	}
	u, err := url.Parse(address)
	switch {
	case err == nil && (u.Scheme == "http" || u.Scheme == "https") && u.Host != "":
	case err == nil && u.Scheme == "file" && u.Host == "" && filepath.IsAbs(u.Path):
	default: // url.Parse's error may hold a password
		all.say(name, errors.New("its address is not usable: expected http://, https:// or file:///absolute/path"))
		return
	}
	all.list = append(all.list, &catalog{name: name, tell: teller(u), runs: make(chan Run, waiting)})
}

func (all *Catalogs) say(catalog string, err error) {
	all.mu.Lock()
	defer all.mu.Unlock()
	if all.warn != nil {
		all.warn(catalog, err)
	}
}

// safely turns a panic into an error: a mistake in here must not end a step.
func safely(ctx context.Context, tell func(context.Context, Run) error, r Run) (err error) {
	defer func() {
		if v := recover(); v != nil {
			err = fmt.Errorf("panic, a mistake in the program: %v", v)
		}
	}()
	return tell(ctx, r)
}

// Report tells every catalog of a run and does not wait for any.
func (all *Catalogs) Report(r Run) {
	for _, one := range all.list {
		select {
		case one.runs <- r:
		default:
			all.say(one.name, fmt.Errorf("%s of run %s: dropped, %d reports wait already", r.State, r.ID, waiting))
		}
	}
}

// Close returns when everything is told or Wait is over; what is not told by then is dropped. Nothing is reported after it.
func (all *Catalogs) Close() {
	for _, one := range all.list {
		close(one.runs)
	}
	told := make(chan struct{})
	go func() { all.done.Wait(); close(told) }()
	select {
	case <-told:
	case <-time.After(Wait):
		all.say("all", fmt.Errorf("not all was told within %s; the rest is dropped", Wait))
	}
	all.mu.Lock()
	defer all.mu.Unlock()
	all.warn = nil
}

// maxAnswer is how much of a server's refusal an error shows, in bytes.
const maxAnswer = 300

func post(ctx context.Context, target, token string, headers map[string]string, body []byte) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, target, bytes.NewReader(body))
	if err != nil {
		return errors.New("the address is not usable") // the error may hold a password
	}
	request.Header.Set("Content-Type", "application/json")
	if token != "" {
		request.Header.Set("Authorization", "Bearer "+token)
	}
	for name, value := range headers {
		request.Header.Set(name, value)
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(response.Body, maxAnswer))
	if response.StatusCode/100 == 2 {
		return nil // told, whatever becomes of the answer
	}
	if err != nil {
		return err
	}
	return fmt.Errorf("the server answered %s: %s", response.Status, strings.TrimSpace(string(answer)))
}

// changeFile lets change work on a file while no other step does; steps run side by side.
func changeFile(ctx context.Context, path string, change func(*os.File) error) error {
	for {
		f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o644)
		if err != nil {
			return err
		}
		locked, err := lock(f)
		if locked {
			err = change(f)
		}
		f.Close()
		if locked || err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("lock %s: another step holds it: %w", path, ctx.Err())
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// lock tells whether it locked the file, and whether the file is still the one of its name: mergeProposals replaces it.
func lock(f *os.File) (bool, error) {
	info, err := f.Stat()
	if err != nil {
		return false, err
	}
	if !info.Mode().IsRegular() {
		return false, fmt.Errorf("%s: expected a regular file", f.Name())
	}
	err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	if errors.Is(err, syscall.EWOULDBLOCK) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("lock %s: %w", f.Name(), err)
	}
	now, err := os.Stat(f.Name())
	if errors.Is(err, os.ErrNotExist) {
		return false, nil
	}
	return err == nil && os.SameFile(info, now), err
}

// appendLine writes a line at the end; one that a killed step left half done is ended first.
func appendLine(f *os.File, line []byte) error {
	size, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return err
	}
	text := append(bytes.Clone(line), '\n')
	if size > 0 {
		last := make([]byte, 1)
		if _, err := f.ReadAt(last, size-1); err != nil {
			return err
		}
		if last[0] != '\n' {
			text = append([]byte{'\n'}, text...)
		}
	}
	_, err = f.Write(text)
	return err
}

func orDefault(text, fallback string) string {
	if text == "" {
		return fallback
	}
	return text
}
