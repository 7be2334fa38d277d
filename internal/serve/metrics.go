package serve

import (
	"net/http"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// metrics are what Prometheus scrapes; docs/serving.md lists them.
type metrics struct {
	requests    *prometheus.CounterVec
	seconds     *prometheus.HistogramVec
	predictions *prometheus.CounterVec
	pages       http.Handler
}

func newMetrics(s *sessions) *metrics {
	m := &metrics{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "insitu_http_requests_total", Help: "Requests by route, method and status; 499 are clients that went away."}, []string{"route", "method", "status"}),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "insitu_http_request_seconds", Help: "Time from the request's head to its answer.",
			Buckets: []float64{.001, .002, .005, .01, .02, .05, .1, .2, .5, 1, 2, 5, 10, 30}}, []string{"route"}),
		predictions: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "insitu_predictions_total", Help: "Examples that were predicted, by model version."}, []string{"model", "version"}),
	}
	registry := prometheus.NewRegistry()
	registry.MustRegister(m.requests, m.seconds, m.predictions, &sessionMetrics{
		sessions:  s,
		connected: prometheus.NewDesc("insitu_sessions", "Sessions with the inference database.", nil, nil),
		busy:      prometheus.NewDesc("insitu_sessions_busy", "Sessions that predict at this moment.", nil, nil),
		waiting:   prometheus.NewDesc("insitu_requests_waiting", "Requests that wait for a session.", nil, nil),
		batches:   prometheus.NewDesc("insitu_batches_total", "Statements that predicted pictures, each for all requests that waited.", nil, nil),
		model:     prometheus.NewDesc("insitu_active_model", "1 for the active model version; absent when there is none.", []string{"model", "version"}, nil),
	}, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	m.pages = promhttp.HandlerFor(registry, promhttp.HandlerOpts{})
	return m
}

func (m *metrics) seen(route, method string, status int, began time.Time) {
	switch method {
	case http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete, http.MethodOptions:
	default:
		method = "other" // callers must not make up label values
	}
	m.requests.WithLabelValues(route, method, strconv.Itoa(status)).Inc()
	m.seconds.WithLabelValues(route).Observe(time.Since(began).Seconds())
}

func (m *metrics) answer(w http.ResponseWriter, r *http.Request) *problem {
	m.pages.ServeHTTP(w, r)
	return nil
}

// sessionMetrics reads the sessions' state when it is scraped.
type sessionMetrics struct {
	sessions                                 *sessions
	connected, busy, waiting, batches, model *prometheus.Desc
}

func (c *sessionMetrics) Describe(out chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{c.connected, c.busy, c.waiting, c.batches, c.model} {
		out <- d
	}
}

func (c *sessionMetrics) Collect(out chan<- prometheus.Metric) {
	s := c.sessions.state()
	gauge := func(d *prometheus.Desc, value int, labels ...string) {
		out <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, float64(value), labels...)
	}
	gauge(c.connected, s.connected)
	gauge(c.busy, s.busy)
	gauge(c.waiting, s.waiting)
	out <- prometheus.MustNewConstMetric(c.batches, prometheus.CounterValue, float64(s.batches))
	if s.model != nil {
		gauge(c.model, 1, s.model.Name, strconv.Itoa(s.model.Version))
	}
}
