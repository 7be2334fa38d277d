package main

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"

	"github.com/insitu-ml/insitu/internal/localrun"
)

// display shows a run while it runs.
type display interface {
	observe(localrun.Event)
	close()
}

// word is a task's state in the user's words.
func word(s localrun.Status) string {
	switch s {
	case localrun.Pending:
		return "waiting"
	case localrun.Running:
		return "running"
	case localrun.Succeeded:
		return "done"
	case localrun.Skipped:
		return "skipped"
	case localrun.Omitted:
		return "not run"
	}
	return "failed"
}

// remark is what a log line says to somebody who watches: epochs with their numbers, and warnings.
// The error that ends a step comes with its end.
func remark(log map[string]any) string {
	msg, _ := log["msg"].(string)
	level, _ := log["level"].(string)
	switch {
	case msg == "epoch":
		return epochLine(log)
	case level == "warn":
		text := "warning: " + msg
		if e, ok := log["error"].(string); ok {
			text += ": " + e
		}
		return text
	}
	return ""
}

// epochLine is "epoch 3/10, loss 0.1234, accuracy 0.9712, ...".
func epochLine(log map[string]any) string {
	text := "epoch"
	if n, ok := log["epoch"].(float64); ok {
		text += " " + strconv.FormatFloat(n, 'f', -1, 64)
		if of, ok := log["epochs"].(float64); ok {
			text += "/" + strconv.FormatFloat(of, 'f', -1, 64)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(log)) {
		value, ok := log[name].(float64)
		if !ok || !(strings.Contains(name, "loss") || strings.Contains(name, "accuracy")) {
			continue
		}
		text += fmt.Sprintf(", %s %.4f", strings.NewReplacer("_", " ", "-", " ").Replace(name), value)
	}
	return text
}

// ending is what to say about a task that ended.
func ending(s localrun.Step) string {
	switch s.Status {
	case localrun.Failed, localrun.Errored:
		return firstLine(s.Message)
	case localrun.Succeeded:
		return s.Outputs["reason"]
	}
	return ""
}

func firstLine(text string) string {
	line, _, _ := strings.Cut(text, "\n")
	return line
}

// plain writes a line an event: for files, pipes and continuous integration.
type plain struct {
	out   io.Writer
	width int
}

func newPlain(out io.Writer, tasks []string) *plain {
	p := &plain{out: out}
	for _, t := range tasks {
		p.width = max(p.width, len(t))
	}
	return p
}

func (p *plain) observe(e localrun.Event) {
	var text string
	switch {
	case e.Changed && e.Step.Items == 1: // its item tells all
	case e.Changed && e.Step.Items > 1:
		text = fmt.Sprintf("%s, %d in all", word(e.Status), e.Step.Items)
	case e.Changed && e.Status == localrun.Running && e.Step.Attempts > 1:
		text = fmt.Sprintf("running (attempt %d)", e.Step.Attempts)
	case e.Changed && e.Status == localrun.Succeeded:
		text = strings.TrimSuffix(fmt.Sprintf("done in %.1f s: %s", e.Step.Seconds, ending(e.Step)), ": ")
	case e.Changed:
		text = strings.TrimSuffix(fmt.Sprintf("%s: %s", word(e.Status), ending(e.Step)), ": ")
	case e.Log != nil:
		text = remark(e.Log)
	case e.Line != "":
		text = e.Line
	}
	if text != "" {
		fmt.Fprintf(p.out, "%s  %-*s  %s\n", time.Now().Format("15:04:05"), p.width, e.Task, text)
	}
}

func (p *plain) close() {}

// bars shows a bar a task on a terminal, with epochs, warnings and errors scrolling above.
type bars struct {
	progress *mpb.Progress
	mu       sync.Mutex
	tasks    map[string]*barState
}

type barState struct {
	bar     *mpb.Bar
	status  localrun.Status
	began   time.Time
	seconds float64
	text    string

	items map[string]float64 // of a task that was expanded: how much of each is done, 1 for one that ended
	count int                // of items
}

// share takes note of how much of an item is done and returns the part of the whole task that is.
func (s *barState) share(item string, part float64) float64 {
	s.items[item] = part
	sum := 0.0
	for _, part := range s.items {
		sum += part
	}
	return sum / float64(s.count)
}

// ended says how many items have, of several.
func (s *barState) ended() string {
	n := 0
	for _, part := range s.items {
		if part == 1 {
			n++
		}
	}
	return fmt.Sprintf("%d of %d", n, s.count)
}

// maxText is how many letters stand beside a bar: the rest of a long one is in the summary and the log.
const maxText = 64

// barWidth is how many letters a bar takes, its frame and spaces included.
const barWidth = 24

// barTotal is the length of every bar, in thousandths.
const barTotal = 1000

func newBars(out io.Writer, tasks []string) *bars {
	b := &bars{progress: mpb.New(mpb.WithOutput(out), mpb.WithWidth(barWidth), mpb.WithRefreshRate(120*time.Millisecond)), tasks: map[string]*barState{}}
	width := 0
	for _, t := range tasks {
		width = max(width, len(t))
	}
	for _, t := range tasks {
		s := &barState{status: localrun.Pending}
		b.tasks[t] = s
		s.bar = b.progress.New(barTotal, mpb.BarStyle(),
			mpb.PrependDecorators(decor.Name(fmt.Sprintf("%-*s ", width, t))),
			mpb.AppendDecorators(decor.Any(func(st decor.Statistics) string { return b.describe(s, st.AvailableWidth-barWidth) })))
	}
	return b
}

// describe says how a task is doing in at most room letters, so that the bar keeps its place.
func (b *bars) describe(s *barState, room int) string {
	b.mu.Lock()
	defer b.mu.Unlock()
	seconds := s.seconds
	if s.status == localrun.Running {
		seconds = time.Since(s.began).Seconds()
	}
	text := fmt.Sprintf(" %-7s", word(s.status))
	if s.status == localrun.Running || seconds > 0 {
		text += fmt.Sprintf(" %6.1f s", seconds)
	}
	if rest := min(maxText, room-len(text)-3); s.text != "" && rest > 8 {
		text += "  " + shorten(s.text, rest)
	}
	return text
}

func (b *bars) observe(e localrun.Event) {
	if e.Of != "" {
		b.observeItem(e)
		return
	}
	s := b.tasks[e.Task]
	above := ""
	b.mu.Lock()
	switch {
	case e.Changed:
		if e.Status == localrun.Running && s.status != localrun.Running {
			s.began = time.Now()
		}
		s.status, s.seconds = e.Status, e.Step.Seconds
		if s.count = e.Step.Items; s.count > 0 && s.items == nil {
			s.items = map[string]float64{}
		}
		if e.Status != localrun.Running && s.count == 0 {
			s.text = ending(e.Step)
		}
	case e.Log != nil:
		if text := remark(e.Log); e.Log["msg"] == "epoch" {
			s.text = text
		} else if text != "" {
			above = e.Task + ": " + text
		}
	case e.Line != "":
		above = e.Task + ": " + e.Line
	}
	b.mu.Unlock()
	if e.Total > 0 {
		s.bar.SetCurrent(min(e.Done*barTotal/e.Total, barTotal-1)) // a full bar would count as ended
	}
	if e.Changed {
		switch e.Status {
		case localrun.Succeeded:
			s.bar.SetCurrent(barTotal)
		case localrun.Failed, localrun.Errored, localrun.Skipped, localrun.Omitted:
			s.bar.Abort(false)
		}
	}
	if above != "" {
		_, _ = fmt.Fprintln(b.progress, above)
	}
}

// observeItem shows an item at the bar of its task: an only one as if it were the task, of several how many have ended.
func (b *bars) observeItem(e localrun.Event) {
	s := b.tasks[e.Of]
	above, done := "", -1.0
	b.mu.Lock()
	text := ""
	switch {
	case e.Changed && (e.Status == localrun.Running || e.Status == localrun.Pending):
	case e.Changed:
		text, done = ending(e.Step), s.share(e.Task, 1)
		if s.count > 1 && text != "" {
			above = e.Task + ": " + text
		}
	case e.Log != nil:
		if text = remark(e.Log); text != "" && e.Log["msg"] != "epoch" {
			above, text = e.Task+": "+text, ""
		}
	case e.Line != "":
		above = e.Task + ": " + e.Line
	case e.Total > 0:
		done = s.share(e.Task, min(float64(e.Done)/float64(e.Total), 0.999))
	}
	switch {
	case s.count > 1:
		s.text = s.ended()
	case text != "":
		s.text = text
	}
	b.mu.Unlock()
	if done >= 0 {
		s.bar.SetCurrent(min(int64(done*barTotal), barTotal-1))
	}
	if above != "" {
		_, _ = fmt.Fprintln(b.progress, above)
	}
}

func (b *bars) close() {
	for _, s := range b.tasks { // those that never ended
		if !s.bar.Completed() {
			s.bar.Abort(false)
		}
	}
	b.progress.Wait()
}
