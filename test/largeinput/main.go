// Command largeinput writes a dataset of a given size to standard output, to measure upload-dataset with:
//
//	go run ./test/largeinput -format=cifar10 -bytes=1000000000 >large.tar.gz
//	go run ./test/largeinput -format=csv -bytes=1000000000 >large.csv
//
// CSV and Parquet have a column "label" of ten classes and 64 columns of numbers between 0 and 1; NPZ has the same in its arrays.
// Parquet has pages of 1 MiB and row groups of 1,000,000 rows, about as other writers do.
// The same size gives the same bytes.
package main

import (
	"archive/tar"
	"archive/zip"
	"bufio"
	"compress/gzip"
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"os"
	"strconv"

	"github.com/parquet-go/parquet-go"
)

func main() {
	format := flag.String("format", "csv", "csv, cifar10, npz or parquet")
	size := flag.Int64("bytes", 1_000_000_000, "least size in bytes before compression")
	flag.Parse()
	out := bufio.NewWriterSize(os.Stdout, 1<<20)
	random := rand.New(rand.NewPCG(1, 2))
	var err error
	switch *format {
	case "csv":
		err = writeCSV(out, *size, random)
	case "cifar10":
		err = writeCIFAR(out, *size, random)
	case "npz":
		err = writeNPZ(out, *size, random)
	case "parquet":
		err = writeParquet(out, *size, random)
	default:
		err = fmt.Errorf("-format=%q: expected csv, cifar10, npz or parquet", *format)
	}
	if err := errors.Join(err, out.Flush()); err != nil {
		fmt.Fprintln(os.Stderr, "largeinput:", err)
		os.Exit(1)
	}
}

const classes, features = 10, 64

func writeCSV(w io.Writer, size int64, random *rand.Rand) error {
	line := []byte("label")
	for i := range features {
		line = append(line, ",f"...)
		line = strconv.AppendInt(line, int64(i), 10)
	}
	for row := 0; size > 0; row++ {
		n, err := w.Write(append(line, '\n'))
		if err != nil {
			return err
		}
		size -= int64(n)
		line = strconv.AppendInt(line[:0], int64(row%classes), 10)
		for range features {
			line = append(line, ',')
			line = strconv.AppendFloat(line, random.Float64(), 'f', 6, 64)
		}
	}
	return nil
}

// writeNPZ stores the arrays as numpy.savez does, uncompressed.
func writeNPZ(w io.Writer, size int64, random *rand.Rand) error {
	rows := (size + 4*features) / (4*features + 1)
	z := zip.NewWriter(w)
	member := func(name, dtype, shape string, row func(i int64) []byte) error {
		m, err := z.CreateHeader(&zip.FileHeader{Name: name, Method: zip.Store})
		if err != nil {
			return err
		}
		header := fmt.Sprintf("{'descr': '%s', 'fortran_order': False, 'shape': %s, }", dtype, shape)
		header = fmt.Sprintf("%-117s\n", header) // with what stands before it, a multiple of 64 bytes
		if _, err := m.Write(append([]byte{0x93, 'N', 'U', 'M', 'P', 'Y', 1, 0, byte(len(header)), 0}, header...)); err != nil {
			return err
		}
		for i := range rows {
			if _, err := m.Write(row(i)); err != nil {
				return err
			}
		}
		return nil
	}
	data := make([]byte, 4*features)
	return errors.Join(
		member("x.npy", "<f4", fmt.Sprintf("(%d, %d)", rows, features), func(int64) []byte {
			for i := range features {
				binary.LittleEndian.PutUint32(data[4*i:], math.Float32bits(random.Float32()))
			}
			return data
		}),
		member("y.npy", "|u1", fmt.Sprintf("(%d,)", rows), func(i int64) []byte { return []byte{byte(i % classes)} }),
		z.Close())
}

func writeParquet(w io.Writer, size int64, random *rand.Rand) error {
	columns := parquet.Group{"label": parquet.Int(32)}
	for i := range features {
		columns[fmt.Sprintf("f%02d", i)] = parquet.Leaf(parquet.FloatType)
	}
	out := parquet.NewGenericWriter[any](w, parquet.NewSchema("large", columns), parquet.PageBufferSize(1<<20), parquet.MaxRowsPerRowGroup(1_000_000))
	row := make(parquet.Row, features+1)
	for n := range size / (4 * (features + 1)) {
		for i := range features {
			row[i] = parquet.FloatValue(random.Float32()).Level(0, 0, i)
		}
		row[features] = parquet.Int32Value(int32(n%classes)).Level(0, 0, features)
		if _, err := out.WriteRows([]parquet.Row{row}); err != nil {
			return err
		}
	}
	return out.Close()
}

// writeCIFAR makes batches of 10,000 images, as the real archive has them.
func writeCIFAR(w io.Writer, size int64, random *rand.Rand) error {
	const batch, record = 10_000, 3073
	z, err := gzip.NewWriterLevel(w, gzip.BestSpeed)
	if err != nil {
		return err
	}
	t := tar.NewWriter(z)
	names := "airplane\nautomobile\nbird\ncat\ndeer\ndog\nfrog\nhorse\nship\ntruck\n"
	if err := t.WriteHeader(&tar.Header{Name: "cifar-10-batches-bin/batches.meta.txt", Mode: 0o644, Size: int64(len(names))}); err != nil {
		return err
	}
	if _, err := io.WriteString(t, names); err != nil {
		return err
	}
	image := make([]byte, record)
	for i := 1; size > 0; i++ {
		if err := t.WriteHeader(&tar.Header{Name: fmt.Sprintf("cifar-10-batches-bin/data_batch_%d.bin", i), Mode: 0o644, Size: batch * record}); err != nil {
			return err
		}
		for row := range batch {
			for k := range image {
				image[k] = byte(random.Uint32())
			}
			image[0] = byte(row % classes)
			if _, err := t.Write(image); err != nil {
				return err
			}
		}
		size -= batch * record
	}
	return errors.Join(t.Close(), z.Close())
}
