package uploaddataset

import (
	"archive/tar"
	"bufio"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

// maxResident is the most memory the step may take, in bytes, however large its input is: see internal/dataset/doc.go.
const maxResident = 64 << 20

func TestTheMemoryOfTheStepIsBounded(t *testing.T) {
	t.Parallel()
	bin := os.Getenv("INSITU_TEST_BIN")
	if bin == "" {
		t.Skip("needs the programs: INSITU_TEST_BIN is not set (make test sets it)")
	}
	for name, c := range map[string]struct {
		input string
		write func(w io.Writer) error
	}{
		"CSV":              {"shape: [32], dtype: float32", func(w io.Writer) error { return writeTable(w, 600_000) }},
		"CIFAR-10, tar.gz": {"shape: [3, 32, 32], dtype: uint8", func(w io.Writer) error { return writeImages(w, 80_000) }},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			dir := t.TempDir()
			file := filepath.Join(dir, "data")
			if err := os.WriteFile(filepath.Join(dir, "insitu.yaml"), []byte("name: t\nmodel: t\ntask: classification\ninput: {"+c.input+"}\n"), 0o600); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(dir, "learner.py"), []byte("class Learner:\n    pass\n"), 0o600); err != nil {
				t.Fatal(err)
			}
			if err := toFile(file, c.write); err != nil {
				t.Fatal(err)
			}
			step := exec.Command(filepath.Join(bin, "upload-dataset"), "--app="+dir, "--dataset="+file, "--work-dir="+t.TempDir(), "--output-dir="+t.TempDir())
			step.Env = os.Environ()
			for name, value := range w.flags {
				step.Env = append(step.Env, "INSITU_"+strings.ToUpper(strings.ReplaceAll(name, "-", "_"))+"="+value)
			}
			peak, err := peakOf(step)
			if err != nil {
				t.Fatal(err)
			}
			t.Logf("%d MiB", peak>>20)
			if peak > maxResident {
				t.Errorf("the step took %d MiB of resident memory, expected at most %d", peak>>20, maxResident>>20)
			}
		})
	}
}

// peakOf runs a program and returns the most resident memory it had, in bytes.
// It is asked while it runs: what wait reports counts the memory of this process too, which the child shares until it executes.
func peakOf(cmd *exec.Cmd) (peak int64, err error) {
	var stderr strings.Builder
	cmd.Stderr = &stderr
	if err := cmd.Start(); err != nil {
		return 0, err
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	for {
		select {
		case err := <-ended:
			if err == nil && peak == 0 {
				err = errors.New("no peak of its memory was seen")
			}
			if err != nil {
				err = fmt.Errorf("%w\n%s", err, stderr.String())
			}
			return peak, err
		case <-time.After(20 * time.Millisecond):
			text, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", cmd.Process.Pid))
			_, after, _ := strings.Cut(string(text), "VmHWM:")
			value, _, _ := strings.Cut(after, "kB")
			if n, err := strconv.ParseInt(strings.TrimSpace(value), 10, 64); err == nil {
				peak = n << 10
			}
		}
	}
}

func toFile(name string, write func(w io.Writer) error) error {
	f, err := os.Create(name)
	if err != nil {
		return err
	}
	w := bufio.NewWriterSize(f, 1<<20)
	return errors.Join(write(w), w.Flush(), f.Close())
}

// writeTable writes a CSV of about 350 bytes a row.
func writeTable(w io.Writer, rows int) error {
	random := rand.New(rand.NewPCG(1, 2))
	line := []byte("label")
	for i := range 32 {
		line = fmt.Appendf(line, ",f%d", i)
	}
	for row := range rows {
		if _, err := w.Write(append(line, '\n')); err != nil {
			return err
		}
		line = strconv.AppendInt(line[:0], int64(row%10), 10)
		for range 32 {
			line = strconv.AppendFloat(append(line, ','), random.Float64(), 'f', 8, 64)
		}
	}
	return nil
}

// writeImages writes a CIFAR-10 archive of images of 3 KiB.
func writeImages(w io.Writer, images int) error {
	random := rand.New(rand.NewPCG(1, 2))
	z, err := gzip.NewWriterLevel(w, gzip.NoCompression)
	if err != nil {
		return err
	}
	t := tar.NewWriter(z)
	record := make([]byte, 1+3*32*32)
	if err := t.WriteHeader(&tar.Header{Name: "data_batch_1.bin", Mode: 0o644, Size: int64(images * len(record))}); err != nil {
		return err
	}
	for i := range images {
		for k := range record {
			record[k] = byte(random.Uint32())
		}
		record[0] = byte(i % 10)
		if _, err := t.Write(record); err != nil {
			return err
		}
	}
	return errors.Join(t.Close(), z.Close())
}
