package dataset

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"path"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// CIFAR-10's binary version: one label byte, then 1024 bytes each of red, green and blue, row by row.
const (
	cifarSide  = 32
	cifarPlane = cifarSide * cifarSide
	cifarImage = 3 * cifarPlane
	cifarNames = "batches.meta.txt"
)

func isBatch(base string) bool {
	ok, _ := path.Match("data_batch_*.bin", base)
	return ok || base == "test_batch.bin"
}

// openCIFAR reads the class names of a CIFAR-10 archive, a tar file or tar.gz; without them the classes are numbers.
func openCIFAR(r *raw, o Options) (*decoder, error) {
	wrap, _, err := r.inspect()
	if err != nil {
		return nil, err
	}
	shape := o.Input.Shape
	last := slices.Equal(shape, []int{cifarSide, cifarSide, 3})
	if !last && !slices.Equal(shape, []int{3, cifarSide, cifarSide}) && !slices.Equal(shape, []int{cifarImage}) {
		return nil, fmt.Errorf("the images are [3, 32, 32], the app's input is %v", shape)
	}
	var names []string
	err = r.walk(wrap, func(name string, size int64, in io.Reader) error {
		if path.Base(name) != cifarNames {
			return nil
		}
		text, err := io.ReadAll(io.LimitReader(in, 1<<16))
		if err != nil {
			return err
		}
		if !utf8.Valid(text) {
			return fmt.Errorf("%q is not UTF-8", name)
		}
		for line := range strings.Lines(string(text)) {
			if line = strings.TrimSpace(line); line != "" {
				names = append(names, line)
			}
		}
		return errFound
	})
	if err != nil && !errors.Is(err, errFound) {
		return nil, err
	}
	if len(names) == 0 {
		for i := range 10 {
			names = append(names, strconv.Itoa(i))
		}
	}
	return &decoder{run: func(yield func(*example) error) error {
		b := &batches{names: names, last: last, values: newValues(o.Input), yield: yield}
		if err := r.walk(wrap, b.member); err != nil {
			return err
		}
		if !b.found {
			return errors.New("no data_batch_*.bin or test_batch.bin in the archive: expected CIFAR-10's binary version")
		}
		return nil
	}}, nil
}

type batches struct {
	names  []string
	last   bool
	values *values
	yield  func(*example) error
	found  bool
}

func (b *batches) member(name string, size int64, in io.Reader) error {
	if !isBatch(path.Base(name)) {
		return nil
	}
	b.found = true
	if size%(1+cifarImage) != 0 {
		return fmt.Errorf("%q has %d bytes, expected a multiple of %d: it is truncated or no CIFAR-10 batch", name, size, 1+cifarImage)
	}
	var record [1 + cifarImage]byte
	var turned [cifarImage]byte
	e := example{place: place{member: name, unit: "record"}}
	buffered := bufio.NewReaderSize(in, 1<<16)
	for range size / (1 + cifarImage) {
		e.place.number++
		if _, err := io.ReadFull(buffered, record[:]); err != nil {
			return fmt.Errorf("%s: %w", e.place, err)
		}
		if int(record[0]) >= len(b.names) {
			return fmt.Errorf("%s: label %d, expected 0 to %d", e.place, record[0], len(b.names)-1)
		}
		image := record[1:]
		if b.last {
			for i := range cifarPlane {
				turned[3*i], turned[3*i+1], turned[3*i+2] = image[i], image[cifarPlane+i], image[2*cifarPlane+i]
			}
			image = turned[:]
		}
		b.values.reset()
		if err := b.values.putBytes(image); err != nil {
			return fmt.Errorf("%s: %w", e.place, err)
		}
		e.label, e.data = b.names[record[0]], b.values.buf
		if err := b.yield(&e); err != nil {
			return err
		}
	}
	return nil
}
