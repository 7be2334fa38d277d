package step

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"net/url"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// newLogger writes one JSON object a line, every line: a step logs little, and a dropped line is the one looked for.
func newLogger(w io.Writer, level zapcore.LevelEnabler, red *redactor) *zap.Logger {
	encoder := zap.NewProductionEncoderConfig()
	encoder.TimeKey = "time"
	encoder.EncodeTime = zapcore.RFC3339NanoTimeEncoder
	encoder.EncodeDuration = zapcore.StringDurationEncoder
	core := zapcore.NewCore(zapcore.NewJSONEncoder(encoder), zapcore.Lock(zapcore.AddSync(w)), level)
	return zap.New(&redactingCore{Core: core, red: red})
}

// minSecret is the least length of a secret that is looked for: shorter ones would blank out half of every text.
const minSecret = 4

// redacted stands where a secret was.
const redacted = "[redacted]"

// redactor replaces secrets in texts. Its zero value knows none.
type redactor struct {
	replacer atomic.Pointer[strings.Replacer]
}

// learn makes the redactor look for the secrets as they are, as in URLs, as in Go and JSON strings.
func (r *redactor) learn(secrets []string) {
	var forms []string
	for _, s := range secrets {
		if len(s) < minSecret {
			continue
		}
		forms = append(forms, s, url.QueryEscape(s), url.PathEscape(s), strings.TrimPrefix(url.UserPassword("", s).String(), ":"))
		quoted := fmt.Sprintf("%q", s)
		forms = append(forms, quoted[1:len(quoted)-1])
		if encoded, err := json.Marshal(s); err == nil {
			forms = append(forms, string(encoded[1:len(encoded)-1]))
		}
	}
	// At the same place the replacer takes the first that matches: the longest must come first.
	slices.SortFunc(forms, func(a, b string) int { return cmp.Or(cmp.Compare(len(b), len(a)), cmp.Compare(a, b)) })
	var pairs []string
	for _, f := range slices.Compact(forms) {
		pairs = append(pairs, f, redacted)
	}
	r.replacer.Store(strings.NewReplacer(pairs...))
}

func (r *redactor) text(s string) string {
	if p := r.replacer.Load(); p != nil {
		return p.Replace(s)
	}
	return s
}

// redactingCore keeps secrets out of messages and of text and error fields: errors of libraries quote what they were given.
type redactingCore struct {
	zapcore.Core
	red *redactor
}

func (c *redactingCore) With(fields []zapcore.Field) zapcore.Core {
	return &redactingCore{Core: c.Core.With(c.fields(fields)), red: c.red}
}

func (c *redactingCore) Check(e zapcore.Entry, ce *zapcore.CheckedEntry) *zapcore.CheckedEntry {
	if c.Enabled(e.Level) {
		return ce.AddCore(e, c)
	}
	return ce
}

func (c *redactingCore) Write(e zapcore.Entry, fields []zapcore.Field) error {
	e.Message = c.red.text(e.Message)
	return c.Core.Write(e, c.fields(fields))
}

func (c *redactingCore) fields(fields []zapcore.Field) []zapcore.Field {
	clean := slices.Clone(fields)
	for i, f := range clean {
		switch f.Type {
		case zapcore.StringType:
			clean[i].String = c.red.text(f.String)
		case zapcore.ErrorType:
			if err, ok := f.Interface.(error); ok && err != nil {
				clean[i] = zap.String(f.Key, c.red.text(err.Error()))
			}
		}
	}
	return clean
}

func seconds(since time.Time) zap.Field {
	return zap.Float64("seconds", time.Since(since).Round(time.Millisecond).Seconds())
}
