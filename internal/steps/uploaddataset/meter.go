package uploaddataset

import (
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/insitu-ml/insitu/internal/dataset"
	"github.com/insitu-ml/insitu/internal/step"
)

const (
	// phases are fetch, validate, shuffle, upload and load; each counts as one reading of the file.
	phases = 5
	// logEvery keeps a long upload audible without filling the log.
	logEvery = 5 * time.Second
)

// meter reports progress to the workflow and, now and then, to the log.
type meter struct {
	in   *step.Input
	size int64 // bytes of the file, 0 until it is known

	mu   sync.Mutex
	sent int64
	last time.Time
}

func newMeter(in *step.Input) *meter { return &meter{in: in, last: time.Now()} }

// at says that done of total units of a phase are done.
func (m *meter) at(phase string, ordinal, done, total, rows int64) {
	if m.size > 0 && total > 0 {
		m.in.Progress(ordinal*m.size+int64(float64(m.size)*float64(done)/float64(total)), phases*m.size)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if time.Since(m.last) < logEvery {
		return
	}
	m.last = time.Now()
	fields := []zap.Field{zap.String("phase", phase)}
	if rows > 0 {
		fields = append(fields, zap.Int64("rows", rows))
	}
	if phase != "load" {
		fields = append(fields, zap.Int64("bytes", done))
	}
	if total > 0 {
		fields = append(fields, zap.Int64("percent", 100*done/total))
	}
	m.in.Log.Info("working", fields...)
}

func (m *meter) fetch(n int64) { m.at("fetch", 0, n, 0, 0) }

func (m *meter) pass(p dataset.Progress) {
	ordinal := int64(1)
	if p.Phase == dataset.PhaseShuffle {
		ordinal = 2
	}
	m.at(p.Phase, ordinal, p.Bytes, m.size, p.Rows)
}

func (m *meter) upload(n int) {
	m.mu.Lock()
	m.sent += int64(n)
	sent := m.sent
	m.mu.Unlock()
	m.at("upload", 3, min(sent, m.size), m.size, 0)
}
