package main

import (
	"context"
	"errors"
	"math"
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
func ask(ctx context.Context, url string, clients int, period time.Duration, bodies [][]byte, contentType string) (measured, error) {
	defer debug.SetGCPercent(debug.SetGCPercent(400)) // clients that collect garbage take processors from the servers
	transport := &http.Transport{MaxIdleConnsPerHost: clients, MaxConnsPerHost: clients, DisableCompression: true}
	defer transport.CloseIdleConnections()
	client := &http.Client{Transport: transport, Timeout: 30 * time.Second}
	taken := make([][]float64, clients)
	failed := make([]error, clients)
	var all sync.WaitGroup
	began := time.Now()
	for i := range clients {
		all.Go(func() {
			for n := i; time.Since(began) < period; n += clients {
				s, err := timed(func() error {
					_, err := post(ctx, client, url, bodies[n%len(bodies)], contentType)
					return err
				})
				if err != nil {
					failed[i] = err
					return
				}
				taken[i] = append(taken[i], s)
			}
		})
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

// quantile is the least value that a share of all does not exceed.
func quantile(values []float64, share float64) float64 {
	sorted := slices.Sorted(slices.Values(values))
	return sorted[max(int(math.Ceil(share*float64(len(sorted))))-1, 0)]
}
