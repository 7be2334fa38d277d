package dataset

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// classes counts the labels of a classification and numbers them.
type classes struct {
	listed   []string
	byNumber bool // a label may be a class's number
	index    map[string]int
	names    []string   // in order of first appearance until sorted
	counts   [][3]int64 // rows in each split
}

// newClasses takes the classes the app lists, if it does.
func newClasses(listed []string) *classes {
	c := &classes{listed: listed, byNumber: len(listed) > 0, index: map[string]int{}}
	for i, name := range listed {
		c.index[name] = i
		if _, err := strconv.ParseInt(name, 10, 64); err == nil {
			c.byNumber = false
		}
	}
	c.names = slices.Clone(listed)
	c.counts = make([][3]int64, len(c.names))
	return c
}

// number is the number of a label, before sort in order of appearance; -1 for a new one.
func (c *classes) number(label string) (int, error) {
	if i, ok := c.index[label]; ok {
		return i, nil
	}
	if c.byNumber {
		if i, err := strconv.Atoi(label); err == nil && i >= 0 && i < len(c.listed) {
			return i, nil
		}
	}
	if len(c.listed) > 0 {
		return 0, fmt.Errorf("unknown label %.80q, expected one of %s", label, someOf(c.listed))
	}
	return -1, nil
}

// add counts a label of a split.
func (c *classes) add(label string, split int) error {
	if label == "" {
		return errors.New("the label is empty")
	}
	i, err := c.number(label)
	if err != nil {
		return err
	}
	if i < 0 {
		switch {
		case len(label) > maxLabel:
			return fmt.Errorf("label %.40q... has more than %d bytes", label, maxLabel)
		case !utf8.ValidString(label):
			return fmt.Errorf("label %q is not UTF-8", label)
		case strings.ContainsRune(label, 0):
			return fmt.Errorf("label %q has a zero byte", label)
		case len(c.names) == maxClasses:
			return fmt.Errorf("label %.80q is the %dth class: is it a measurement, or the task %q?", label, maxClasses+1, Regression)
		}
		i = len(c.names)
		label = strings.Clone(label)
		c.index[label] = i
		c.names = append(c.names, label)
		c.counts = append(c.counts, [3]int64{})
	}
	c.counts[i][split]++
	return nil
}

// sort orders classes the app did not list: by number if all are integers, else by bytes.
func (c *classes) sort() {
	if len(c.listed) > 0 {
		return
	}
	type class struct {
		name   string
		number int64
		counts [3]int64
	}
	all := make([]class, len(c.names))
	integers := true
	for i, name := range c.names {
		n, err := strconv.ParseInt(name, 10, 64)
		integers = integers && err == nil
		all[i] = class{name, n, c.counts[i]}
	}
	slices.SortFunc(all, func(a, b class) int {
		if integers && a.number != b.number {
			return cmp.Compare(a.number, b.number)
		}
		return strings.Compare(a.name, b.name)
	})
	for i, a := range all {
		c.names[i], c.counts[i], c.index[a.name] = a.name, a.counts, i
	}
}

// check says whether all classes can be learned.
func (c *classes) check() error {
	for i, n := range c.counts {
		switch {
		case n == [3]int64{}:
			return fmt.Errorf("class %q has no rows: add some, or take it off the app's labels", c.names[i])
		case n[0] == 0:
			return fmt.Errorf("class %q has no row in the train split, of %d rows: add rows of it, choose another split seed, or a larger fraction for training", c.names[i], n[1]+n[2])
		}
	}
	return nil
}

func someOf(names []string) string {
	const most = 12
	quoted := make([]string, 0, most)
	for _, name := range names[:min(most, len(names))] {
		quoted = append(quoted, fmt.Sprintf("%.40q", name))
	}
	text := strings.Join(quoted, ", ")
	if len(names) > most {
		text += fmt.Sprintf(" and %d more", len(names)-most)
	}
	return text
}

// target reads the label of a regression.
func target(label string) (float32, error) {
	x, err := parseNumber(label)
	if err != nil {
		return 0, fmt.Errorf("label: %w", err)
	}
	if math.IsNaN(x) || math.Abs(x) > math.MaxFloat32 {
		return 0, fmt.Errorf("label %v: expected a finite number of float32's range", x)
	}
	return float32(x), nil
}
