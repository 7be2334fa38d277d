package archive_test

import (
	"archive/tar"
	"archive/zip"
	"bytes"
	"compress/gzip"
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/insitu-ml/insitu/internal/archive"
)

type member struct {
	name, content string
	kind          byte
}

func tarOf(t testing.TB, members ...member) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, m := range members {
		h := &tar.Header{Name: m.name, Mode: 0o644, Size: int64(len(m.content)), Typeflag: tar.TypeReg}
		if m.kind != 0 {
			h.Typeflag, h.Linkname, h.Size = m.kind, "target", 0
		}
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if h.Typeflag == tar.TypeReg {
			if _, err := io.WriteString(w, m.content); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func gzipOf(t testing.TB, content []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	if _, err := w.Write(content); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func zipOf(t testing.TB, members ...member) []byte {
	t.Helper()
	var b bytes.Buffer
	w := zip.NewWriter(&b)
	for _, m := range members {
		f, err := w.Create(m.name)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(f, m.content); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func collect(into map[string]string) archive.File {
	return func(name string, _ int64, r io.Reader) error {
		b, err := io.ReadAll(r)
		into[name] = string(b)
		return err
	}
}

func TestAnArchiveIsWalkedInFull(t *testing.T) {
	t.Parallel()
	members := []member{{name: "./a/one.txt", content: "1"}, {name: "a/", kind: tar.TypeDir}, {name: "two", content: "22"}}
	want := map[string]string{"a/one.txt": "1", "two": "22"}

	got := map[string]string{}
	if err := archive.WalkTarGz(bytes.NewReader(gzipOf(t, tarOf(t, members...))), archive.Limits{}, collect(got)); err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error("tar.gz:", d)
	}

	got = map[string]string{}
	z := zipOf(t, members[0], member{name: "a/"}, members[2])
	if err := archive.WalkZip(bytes.NewReader(z), int64(len(z)), archive.Limits{}, collect(got)); err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error("zip:", d)
	}
}

func TestAnArchiveIsRefused(t *testing.T) {
	t.Parallel()
	zeros := strings.Repeat("\x00", 8<<20)
	good := gzipOf(t, tarOf(t, member{name: "a", content: strings.Repeat("abcdefgh", 1000)}))
	flipped := bytes.Clone(good)
	flipped[len(flipped)-6] ^= 0xff // the checksum
	for name, c := range map[string]struct {
		tarGz    []byte
		zip      []byte
		limits   archive.Limits
		want     string
		tooLarge bool
	}{
		"with a path that climbs out (tar)":     {tarGz: gzipOf(t, tarOf(t, member{name: "a/../../etc/passwd"})), want: `"a/../../etc/passwd": the path leaves`},
		"with a path that climbs out (zip)":     {zip: zipOf(t, member{name: "../evil"}), want: `"../evil": the path leaves`},
		"with an absolute path (tar)":           {tarGz: gzipOf(t, tarOf(t, member{name: "/etc/passwd"})), want: "relative path"},
		"with an absolute path (zip)":           {zip: zipOf(t, member{name: "/etc/passwd"}), want: "relative path"},
		"with backslashes":                      {zip: zipOf(t, member{name: `..\evil`}), want: "relative path"},
		"with a drive letter":                   {zip: zipOf(t, member{name: `C:evil`}), want: "relative path"},
		"with a symbolic link":                  {tarGz: gzipOf(t, tarOf(t, member{name: "link", kind: tar.TypeSymlink})), want: `"link" is a link`},
		"with a hard link":                      {tarGz: gzipOf(t, tarOf(t, member{name: "link", kind: tar.TypeLink})), want: `"link" is a link`},
		"with a name that is not UTF-8":         {zip: zipOf(t, member{name: "a\xff"}), want: "not UTF-8"},
		"when it expands beyond the ratio":      {tarGz: gzipOf(t, tarOf(t, member{name: "z", content: zeros})), want: "200-fold", tooLarge: true},
		"when a zip expands beyond the ratio":   {zip: zipOf(t, member{name: "z", content: zeros}), want: `"z" expands more than 200-fold`, tooLarge: true},
		"when it expands beyond the limit":      {tarGz: good, limits: archive.Limits{MaxBytes: 4000}, want: "4000", tooLarge: true},
		"when a zip expands beyond the limit":   {zip: zipOf(t, member{name: "a", content: "12345"}), limits: archive.Limits{MaxBytes: 4}, want: "limit is 4", tooLarge: true},
		"when one file is beyond the limit":     {tarGz: good, limits: archive.Limits{MaxFile: 7999}, want: "limit is 7999", tooLarge: true},
		"when it holds too many files":          {tarGz: gzipOf(t, tarOf(t, member{name: "a"}, member{name: "b"})), limits: archive.Limits{MaxFiles: 1}, want: "more than 1 files", tooLarge: true},
		"when it is cut short":                  {tarGz: good[:len(good)-20], want: "truncated"},
		"when only its checksum is cut off":     {tarGz: good[:len(good)-4], want: "truncated"},
		"when its checksum is wrong":            {tarGz: flipped, want: "checksum"},
		"when it is empty":                      {tarGz: []byte{}, want: "truncated"},
		"when it is no gzip file":               {tarGz: []byte("hello, this is text"), want: "read gzip stream"},
		"when it is no zip file":                {zip: []byte("hello, this is text"), want: "read zip archive"},
		"when a zip is cut short":               {zip: zipOf(t, member{name: "a", content: "12345"})[:20], want: "read zip archive"},
		"when a zip directory lies about sizes": {zip: lyingZip(t), want: `read archive member "a"`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var err error
			if c.zip != nil {
				err = archive.WalkZip(bytes.NewReader(c.zip), int64(len(c.zip)), c.limits, collect(map[string]string{}))
			} else {
				err = archive.WalkTarGz(bytes.NewReader(c.tarGz), c.limits, collect(map[string]string{}))
			}
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Fatalf("got %v, want an error with %q", err, c.want)
			}
			if errors.Is(err, archive.ErrTooLarge) != c.tooLarge {
				t.Errorf("%v: errors.Is(ErrTooLarge) = %v", err, !c.tooLarge)
			}
		})
	}
}

// lyingZip declares 4 bytes for a member that expands to 4096.
func lyingZip(t *testing.T) []byte {
	t.Helper()
	z := zipOf(t, member{name: "a", content: strings.Repeat("x", 4096)})
	i := bytes.Index(z, []byte("PK\x01\x02"))
	copy(z[i+24:], []byte{4, 0, 0, 0})
	return z
}

func TestAnErrorOfTheCallbackEndsTheWalk(t *testing.T) {
	t.Parallel()
	stop := errors.New("stop")
	err := archive.WalkTar(bytes.NewReader(tarOf(t, member{name: "a"})), archive.Limits{}, func(string, int64, io.Reader) error { return stop })
	if !errors.Is(err, stop) {
		t.Fatal(err)
	}
}

func FuzzArchivesNeverPanic(f *testing.F) {
	f.Add(gzipOf(f, tarOf(f, member{name: "a", content: "1"})))
	f.Add(tarOf(f, member{name: "a", content: "1"}))
	f.Add(zipOf(f, member{name: "a/b", content: "1"}))
	f.Fuzz(func(t *testing.T, b []byte) {
		limits := archive.Limits{MaxBytes: 1 << 20, MaxFiles: 100}
		total := 0
		each := func(name string, _ int64, r io.Reader) error {
			if clean, err := archive.CleanName(name); err != nil || clean != name || strings.HasPrefix(name, "..") {
				t.Errorf("name %q came through (%v)", name, err)
			}
			c, err := io.ReadAll(r)
			total += len(c)
			return err
		}
		_ = archive.WalkTarGz(bytes.NewReader(b), limits, each)
		_ = archive.WalkTar(bytes.NewReader(b), limits, each)
		_ = archive.WalkZip(bytes.NewReader(b), int64(len(b)), limits, each)
		if total > 3<<20 {
			t.Errorf("%d bytes came out", total)
		}
	})
}
