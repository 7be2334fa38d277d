package dataset

import (
	"archive/zip"
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/insitu-ml/insitu/internal/archive"
)

// openNPZ finds the data and label arrays of a NumPy .npz file.
func openNPZ(r *raw, o Options) (*decoder, error) {
	// Limits, names and checks of members are the archive walker's; nothing is read here.
	if err := r.walk(zipped, func(string, int64, io.Reader) error { return nil }); err != nil {
		return nil, err
	}
	z, err := zip.NewReader(r, r.Size)
	if err != nil {
		return nil, fmt.Errorf("read zip archive: %w", err)
	}
	members := map[string]*zip.File{}
	var names []string
	for _, m := range z.File {
		if name, ok := strings.CutSuffix(m.Name, ".npy"); ok {
			if members[name] != nil {
				return nil, fmt.Errorf("array %q appears twice", name)
			}
			members[name] = m
			names = append(names, name)
		}
	}
	find := func(what string, candidates ...string) (*zip.File, error) {
		for _, name := range candidates {
			if m := members[name]; m != nil {
				return m, nil
			}
		}
		return nil, fmt.Errorf("no array %s (%s); the arrays are %s", someOf(candidates), what, someOf(names))
	}
	labelNames := []string{"y", "labels"}
	if o.Label != "" {
		labelNames = []string{o.Label}
	}
	x, err := find("the data", "x", "X", "images", "data")
	if err != nil {
		return nil, err
	}
	y, err := find("the labels", labelNames...)
	if err != nil {
		return nil, err
	}
	return &decoder{run: func(yield func(*example) error) error { return npzRows(x, y, o, yield) }}, nil
}

func npzRows(x, y *zip.File, o Options, yield func(*example) error) error {
	data, err := openArray(x)
	if err != nil {
		return err
	}
	defer data.close()
	labels, err := openArray(y)
	if err != nil {
		return err
	}
	defer labels.close()
	switch {
	case data.text() > 0:
		return fmt.Errorf("%q: dtype %q, expected numbers", x.Name, data.dtype)
	case !fits(data.shape, o.Input.Shape):
		return fmt.Errorf("%q: shape %v, expected [rows] and then the app's input %v", x.Name, data.shape, o.Input.Shape)
	case len(labels.shape) == 0 || len(labels.shape) > 2 || len(labels.shape) == 2 && labels.shape[1] != 1:
		return fmt.Errorf("%q: shape %v, expected one label a row", y.Name, labels.shape)
	case labels.shape[0] != data.shape[0]:
		return fmt.Errorf("%q has %d rows, %q has %d", x.Name, data.shape[0], y.Name, labels.shape[0])
	}
	v := newValues(o.Input)
	e := example{place: place{unit: "row"}}
	cells := make([]byte, o.Input.Values()*data.width)
	label := make([]byte, labels.width)
	for range data.shape[0] {
		e.place.number++
		if err := data.read(cells); err != nil {
			return fmt.Errorf("%s: %w", e.place, err)
		}
		if err := labels.read(label); err != nil {
			return fmt.Errorf("%s: %w", e.place, err)
		}
		v.reset()
		if data.dtype == "|u1" {
			err = v.putBytes(cells)
		} else {
			for i := 0; i < len(cells) && err == nil; i += data.width {
				err = v.put(data.number(cells[i:]))
			}
		}
		if err != nil {
			return fmt.Errorf("%s: %w", e.place, err)
		}
		if e.label, err = labels.label(label); err != nil {
			return fmt.Errorf("%s: %w", e.place, err)
		}
		e.data = v.buf
		if err := yield(&e); err != nil {
			return err
		}
	}
	return errors.Join(data.end(), labels.end())
}

// fits tells whether rows of an array are the input: of its shape, or flat, or with an axis of one more or less.
func fits(array, input []int) bool {
	if len(array) == 0 {
		return false
	}
	squeeze := func(shape []int) []int {
		return slices.DeleteFunc(slices.Clone(shape), func(d int) bool { return d == 1 })
	}
	row, want := squeeze(array[1:]), squeeze(input)
	if slices.Equal(row, want) {
		return true
	}
	product := func(shape []int) int {
		n := 1
		for _, d := range shape {
			n *= d
		}
		return n
	}
	return (len(row) == 1 || len(want) == 1) && product(row) == product(want)
}

// array is one .npy member whose header was read: little-endian numbers or text in C order.
type array struct {
	name   string
	dtype  string // |u1, <f4, <U10 ...
	shape  []int
	width  int // bytes of one element
	r      *bufio.Reader
	member io.Closer
}

const (
	// maxHeader is beyond what NumPy writes for any array that is read here.
	maxHeader = 1 << 16
	maxDim    = 1 << 40
)

func openArray(f *zip.File) (*array, error) {
	member, err := f.Open()
	if err != nil {
		return nil, fmt.Errorf("read %q: %w", f.Name, err)
	}
	a := &array{name: f.Name, r: bufio.NewReaderSize(member, 1<<16), member: member}
	if err := a.header(int64(min(f.UncompressedSize64, math.MaxInt64))); err != nil {
		a.close()
		return nil, fmt.Errorf("read %q: %w", f.Name, err)
	}
	return a, nil
}

func (a *array) close() { _ = a.member.Close() }

var errHeader = errors.New("not a .npy header that NumPy writes")

func (a *array) header(size int64) error {
	var head [8]byte
	if _, err := io.ReadFull(a.r, head[:]); err != nil {
		return err
	}
	if string(head[:6]) != "\x93NUMPY" {
		return errHeader
	}
	lengthBytes := 2
	if head[6] > 1 {
		lengthBytes = 4
	}
	var length [4]byte
	if _, err := io.ReadFull(a.r, length[:lengthBytes]); err != nil {
		return err
	}
	n := int64(binary.LittleEndian.Uint32(length[:]))
	if n > maxHeader {
		return errHeader
	}
	text := make([]byte, n)
	if _, err := io.ReadFull(a.r, text); err != nil {
		return err
	}
	if err := a.parse(string(text)); err != nil {
		return err
	}
	// The sizes must agree before a row is believed.
	want := int64(a.width)
	for _, d := range a.shape {
		if d == 0 {
			want = 0
			break
		}
		if want > maxDim/int64(d) {
			return fmt.Errorf("shape %v is larger than allowed: %w", a.shape, archive.ErrTooLarge)
		}
		want *= int64(d)
	}
	if have := size - int64(len(head)+lengthBytes) - n; have != want {
		return fmt.Errorf("shape %v of dtype %q takes %d bytes, the array has %d", a.shape, a.dtype, want, have)
	}
	return nil
}

// parse reads the header's Python dictionary, in the one form NumPy writes it.
func (a *array) parse(text string) error {
	form := regexp.MustCompile(`^\{'descr': (?:'([^']*)'|(\[.*\])), 'fortran_order': (True|False), 'shape': \(([0-9, ]*)\), ?\} *\n?$`)
	m := form.FindStringSubmatch(text)
	if m == nil {
		return errHeader
	}
	a.dtype = m[1]
	for part := range strings.SplitSeq(m[4], ",") {
		if part = strings.TrimSpace(part); part == "" {
			continue
		}
		d, err := strconv.ParseInt(part, 10, 64)
		if err != nil || d > maxDim {
			return fmt.Errorf("shape (%s) is larger than allowed: %w", m[4], archive.ErrTooLarge)
		}
		a.shape = append(a.shape, int(d))
	}
	switch {
	case strings.Contains(a.dtype, "O"):
		return errors.New("it holds Python objects, which are never read: save numbers or text")
	case m[2] != "":
		return errors.New("it is a structured array, expected one plain dtype")
	case strings.HasPrefix(a.dtype, ">"):
		return fmt.Errorf("dtype %q is big-endian, expected little-endian", a.dtype)
	case m[3] == "True" && len(a.shape) > 1:
		return errors.New("it is in Fortran order, expected C order: save numpy.ascontiguousarray(a)")
	}
	kind := strings.TrimLeft(a.dtype, "<|=")
	if n, err := strconv.Atoi(kind[min(1, len(kind)):]); err == nil && n > 0 && n <= maxLabel && len(kind) > 1 {
		switch {
		case kind[0] == 'U':
			a.width = 4 * n
			return nil
		case kind[0] == 'S':
			a.width = n
			return nil
		case slices.Contains([]string{"b1", "u1", "i1", "u2", "i2", "f2", "u4", "i4", "f4", "u8", "i8", "f8"}, kind):
			a.width = n
			return nil
		}
	}
	return fmt.Errorf("dtype %q is not read: expected integers, floats, booleans or text", a.dtype)
}

// text is the number of bytes of a text element, 0 for numbers.
func (a *array) text() int {
	if strings.ContainsAny(a.dtype, "US") {
		return a.width
	}
	return 0
}

func (a *array) read(p []byte) error {
	if _, err := io.ReadFull(a.r, p); err != nil {
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return fmt.Errorf("read %q: %w", a.name, err)
	}
	return nil
}

// end checks that nothing follows, which makes the zip reader check the checksum.
func (a *array) end() error {
	if _, err := a.r.ReadByte(); !errors.Is(err, io.EOF) {
		if err == nil {
			err = errors.New("it is longer than its shape")
		}
		return fmt.Errorf("read %q: %w", a.name, err)
	}
	return nil
}

// number is the element at the start of b.
func (a *array) number(b []byte) float64 {
	le := binary.LittleEndian
	switch a.dtype[1:] {
	case "b1", "u1":
		return float64(b[0])
	case "i1":
		return float64(int8(b[0]))
	case "u2":
		return float64(le.Uint16(b))
	case "i2":
		return float64(int16(le.Uint16(b)))
	case "f2":
		return float16(le.Uint16(b))
	case "u4":
		return float64(le.Uint32(b))
	case "i4":
		return float64(int32(le.Uint32(b)))
	case "f4":
		return float64(math.Float32frombits(le.Uint32(b)))
	case "u8":
		return float64(le.Uint64(b))
	case "i8":
		return float64(int64(le.Uint64(b)))
	default:
		return math.Float64frombits(le.Uint64(b))
	}
}

// float16 widens an IEEE 754 half.
func float16(h uint16) float64 {
	sign, exponent, fraction := 1.0, int(h>>10&31), float64(h&1023)
	if h>>15 == 1 {
		sign = -1
	}
	switch exponent {
	case 0:
		return sign * math.Ldexp(fraction, -24)
	case 31:
		if fraction != 0 {
			return math.NaN()
		}
		return math.Inf(int(sign))
	}
	return sign * math.Ldexp(1024+fraction, exponent-25)
}

// label is the element in b as text.
func (a *array) label(b []byte) (string, error) {
	switch {
	case strings.Contains(a.dtype, "U"):
		runes := make([]rune, 0, len(b)/4)
		for ; len(b) > 0; b = b[4:] {
			runes = append(runes, rune(binary.LittleEndian.Uint32(b)))
		}
		for i, r := range runes {
			if r != 0 && !utf8.ValidRune(r) {
				return "", fmt.Errorf("label: character %d is not valid text", i+1)
			}
		}
		return strings.TrimRight(string(runes), "\x00"), nil
	case a.text() > 0:
		return strings.TrimRight(string(b), "\x00"), nil
	case a.dtype[1:] == "u8" && binary.LittleEndian.Uint64(b) > 1<<53, a.dtype[1:] == "i8" && outside53(int64(binary.LittleEndian.Uint64(b))):
		return "", errors.New("label: an integer beyond 2^53")
	}
	x := a.number(b)
	if math.IsNaN(x) || math.IsInf(x, 0) {
		return "", fmt.Errorf("label: %v, expected a finite number", x)
	}
	return numberLabel(x), nil
}

func outside53(x int64) bool { return x > 1<<53 || x < -(1<<53) }
