// Soak keeps a running `insitu serve` busy and says whether that left a trace: it asks /v1/predict and /inference from
// several clients at once, and reads memory and sessions off /metrics.
//
//	insitu serve --inference-schema digits &
//	go run ./test/soak -minutes 10
//
// It prints a line every ten seconds and one for the whole. It fails on any answer but 200, when the process holds
// more than -growth more memory at the end than after the first tenth, and when sessions are lost or added.
// It makes its pictures itself; the model must take pictures.
package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"image"
	"image/color"
	"image/png"
	"io"
	"math/rand/v2"
	"mime/multipart"
	"net/http"
	"os"
	"os/signal"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	err := run(ctx, os.Args[1:], os.Stdout)
	stop()
	if err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "soak:", err)
		os.Exit(1)
	}
}

// tally is what the clients saw, the time of each answer in it.
type tally struct {
	mu       sync.Mutex
	took     []time.Duration
	statuses map[string]int // of the answers that are not 200, and "no answer"
}

func (t *tally) add(status string, took time.Duration) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.took = append(t.took, took)
	if status != "200" {
		t.statuses[status]++
	}
}

func run(ctx context.Context, args []string, out io.Writer) error {
	flags := flag.NewFlagSet("soak", flag.ContinueOnError)
	url := flags.String("url", "http://127.0.0.1:8080", "the service")
	minutes := flags.Float64("minutes", 10, "how long")
	clients := flags.Int("clients", 16, "requests under way at the same time; at most the service's sessions and queue together")
	growth := flags.Float64("growth", 32, "MiB that the process may grow by")
	if err := flags.Parse(args); err != nil {
		return err
	}
	client := &http.Client{Timeout: time.Minute, Transport: &http.Transport{MaxIdleConnsPerHost: *clients}}
	bodies, kind, err := forms()
	if err != nil {
		return err
	}
	token := os.Getenv("INSITU_TOKEN")
	post := func(path string, body []byte) string {
		r, err := http.NewRequestWithContext(ctx, http.MethodPost, *url+path, bytes.NewReader(body))
		if err != nil {
			return err.Error()
		}
		r.Header.Set("Content-Type", kind)
		if token != "" {
			r.Header.Set("Authorization", "Bearer "+token)
		}
		resp, err := client.Do(r)
		if err != nil {
			return "no answer"
		}
		defer func() { _ = resp.Body.Close() }()
		if _, err := io.Copy(io.Discard, resp.Body); err != nil {
			return "no answer"
		}
		return strconv.Itoa(resp.StatusCode)
	}
	before, err := gauges(ctx, client, *url)
	if err != nil {
		return err
	}
	duration := time.Duration(*minutes * float64(time.Minute))
	began := time.Now()
	all := &tally{statuses: map[string]int{}}
	var working sync.WaitGroup
	for range *clients {
		working.Go(func() {
			for ctx.Err() == nil && time.Since(began) < duration {
				path := "/v1/predict"
				if rand.IntN(4) == 0 {
					path = "/inference"
				}
				asked := time.Now()
				status := post(path, bodies[rand.IntN(len(bodies))])
				if ctx.Err() == nil {
					all.add(status, time.Since(asked))
				}
			}
		})
	}
	ended := make(chan struct{})
	go func() { working.Wait(); close(ended) }()
	tick := time.NewTicker(10 * time.Second)
	defer tick.Stop()
	settled := before // after the first tenth: what a busy service needs
	for busy := true; busy; {
		select {
		case <-ended:
			busy = false
		case <-tick.C:
			now, err := gauges(ctx, client, *url)
			if err != nil {
				return err
			}
			if time.Since(began) <= max(duration/10, 15*time.Second) {
				settled = now
			}
			_, _ = fmt.Fprintf(out, "%4.0f s  %s  %s\n", time.Since(began).Seconds(), all.line(time.Since(began)), now)
		}
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	took := time.Since(began)
	after, err := gauges(ctx, client, *url)
	if err != nil {
		return err
	}
	_, _ = fmt.Fprintf(out, "whole   %d clients  %s\nbefore  %s\nsettled %s\nafter   %s\n", *clients, all.line(took), before, settled, after)
	var problems []error
	if len(all.statuses) > 0 {
		problems = append(problems, fmt.Errorf("answers that are not 200: %v", all.statuses))
	}
	if grown := (after.memory - settled.memory) / (1 << 20); grown > *growth {
		problems = append(problems, fmt.Errorf("the process grew by %.1f MiB, more than %.0f", grown, *growth))
	}
	if after.sessions != before.sessions || after.busy != 0 || after.waiting != 0 {
		problems = append(problems, fmt.Errorf("%.0f sessions before and %.0f after, %.0f still busy, %.0f requests still waiting", before.sessions, after.sessions, after.busy, after.waiting))
	}
	return errors.Join(problems...)
}

// line is the rate and the times so far.
func (t *tally) line(since time.Duration) string {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.took) == 0 {
		return "no answer yet"
	}
	sorted := slices.Sorted(slices.Values(t.took))
	at := func(part float64) float64 {
		return float64(sorted[int(part*float64(len(sorted)-1))].Microseconds()) / 1000
	}
	return fmt.Sprintf("%8d answers  %7.1f a second  p50 %.1f ms  p99 %.1f ms  not 200: %v", len(sorted), float64(len(sorted))/since.Seconds(), at(.5), at(.99), t.statuses)
}

// gauge is what /metrics tells about the process.
type gauge struct{ memory, goroutines, sessions, busy, waiting, batches float64 }

func (g gauge) String() string {
	return fmt.Sprintf("memory %.1f MiB, %.0f goroutines, %.0f sessions, %.0f batches", g.memory/(1<<20), g.goroutines, g.sessions, g.batches)
}

func gauges(ctx context.Context, client *http.Client, url string) (g gauge, err error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, url+"/metrics", nil)
	if err != nil {
		return g, err
	}
	resp, err := client.Do(r)
	if err != nil {
		return g, err
	}
	defer func() { _ = resp.Body.Close() }()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		return g, err
	}
	wanted := map[string]*float64{"process_resident_memory_bytes": &g.memory, "go_goroutines": &g.goroutines, "insitu_sessions": &g.sessions,
		"insitu_sessions_busy": &g.busy, "insitu_requests_waiting": &g.waiting, "insitu_batches_total": &g.batches}
	for line := range strings.Lines(string(text)) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), " ")
		if to := wanted[name]; to != nil {
			if *to, err = strconv.ParseFloat(value, 64); err != nil {
				return g, fmt.Errorf("/metrics: %s: %w", name, err)
			}
		}
	}
	return g, nil
}

// forms are uploads of one picture each, drawn at random, of the size that people send icons in.
func forms() (bodies [][]byte, contentType string, err error) {
	for range 32 {
		m := image.NewGray(image.Rect(0, 0, 64, 64))
		for range 40 {
			x, y := rand.IntN(56), rand.IntN(56)
			for i := range 64 {
				m.SetGray(x+i%8, y+i/8, color.Gray{Y: 255})
			}
		}
		var picture, body bytes.Buffer
		if err := png.Encode(&picture, m); err != nil {
			return nil, "", err
		}
		w := multipart.NewWriter(&body)
		if err := w.SetBoundary("insitu-soak"); err != nil {
			return nil, "", err
		}
		part, err := w.CreateFormFile("file", "picture.png")
		if err != nil {
			return nil, "", err
		}
		if _, err := part.Write(picture.Bytes()); err != nil {
			return nil, "", err
		}
		if err := w.Close(); err != nil {
			return nil, "", err
		}
		bodies, contentType = append(bodies, body.Bytes()), w.FormDataContentType()
	}
	return bodies, contentType, nil
}
