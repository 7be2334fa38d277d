package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"math"
	"net"
	"net/http"
	"runtime/debug"
	"slices"
	"sync"
	"time"
)

// measured is what clients saw of a server.
type measured struct {
	requests  int
	rate      float64 // requests a second
	p50, p99  float64 // seconds
	processor float64 // seconds a request, of the server's processes and its sessions in the database
}

// ask has clients send pictures for a period, each the next one as soon as it has the answer to the last (closed loop),
// over a connection of its own that is kept. Any answer but a label is an error: a server that turns requests away is not faster.
// The requests are written beforehand, and a client does no more than send one and read the answer: what it takes of the
// processors is taken from the servers.
func ask(ctx context.Context, url string, clients int, period time.Duration, bodies [][]byte, contentType string) (measured, error) {
	defer debug.SetGCPercent(debug.SetGCPercent(400))
	requests, err := written(ctx, url, bodies, contentType)
	if err != nil {
		return measured{}, err
	}
	taken := make([][]float64, clients)
	failed := make([]error, clients)
	var all sync.WaitGroup
	began := time.Now()
	for i := range clients {
		all.Go(func() { taken[i], failed[i] = send(ctx, requests, i, clients, began.Add(period)) })
	}
	all.Wait()
	elapsed := time.Since(began).Seconds()
	if err := errors.Join(failed...); err != nil {
		return measured{}, err
	}
	together := slices.Concat(taken...)
	n := len(together)
	return measured{requests: n, rate: float64(n) / elapsed, p50: quantile(together, 0.5), p99: quantile(together, 0.99)}, nil
}

// request is one in the bytes of the wire.
type request struct {
	*http.Request
	bytes []byte
}

func written(ctx context.Context, url string, bodies [][]byte, contentType string) (out []request, err error) {
	for _, body := range bodies {
		r, err := form(ctx, url, body, contentType)
		if err != nil {
			return nil, err
		}
		var wire bytes.Buffer
		if err := r.Write(&wire); err != nil {
			return nil, err
		}
		out = append(out, request{r, wire.Bytes()})
	}
	return out, nil
}

// send is one client: every step-th request from the first on, until a time; the seconds that each took.
func send(ctx context.Context, requests []request, first, step int, until time.Time) (taken []float64, err error) {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "tcp", requests[0].Host)
	if err != nil {
		return nil, err
	}
	defer func() { _ = conn.Close() }()
	if err := conn.SetDeadline(until.Add(30 * time.Second)); err != nil {
		return nil, err
	}
	in := bufio.NewReader(conn)
	for n := first; time.Now().Before(until); n += step {
		r := requests[n%len(requests)]
		s, err := timed(func() error {
			if _, err := conn.Write(r.bytes); err != nil {
				return err
			}
			response, err := http.ReadResponse(in, r.Request)
			if err != nil {
				return err
			}
			_, err = labelOf(response)
			return err
		})
		if err != nil {
			return nil, err
		}
		taken = append(taken, s)
	}
	return taken, nil
}

// quantile is the least value that a share of all does not exceed.
func quantile(values []float64, share float64) float64 {
	sorted := slices.Sorted(slices.Values(values))
	return sorted[max(int(math.Ceil(share*float64(len(sorted))))-1, 0)]
}
