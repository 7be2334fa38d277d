// Command largeinput writes a dataset of a given size to standard output, to measure upload-dataset with:
//
//	go run ./test/largeinput -format=cifar10 -bytes=1000000000 >large.tar.gz
//	go run ./test/largeinput -format=csv -bytes=1000000000 >large.csv
//
// The CSV has a column "label" of ten classes and 64 columns of numbers between 0 and 1.
// The same size gives the same bytes.
package main

import (
	"archive/tar"
	"bufio"
	"compress/gzip"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"strconv"
)

func main() {
	format := flag.String("format", "csv", "csv or cifar10")
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
	default:
		err = fmt.Errorf("-format=%q: expected csv or cifar10", *format)
	}
	if err := errors.Join(err, out.Flush()); err != nil {
		fmt.Fprintln(os.Stderr, "largeinput:", err)
		os.Exit(1)
	}
}

func writeCSV(w io.Writer, size int64, random *rand.Rand) error {
	line := []byte("label")
	for i := range 64 {
		line = append(line, ",f"...)
		line = strconv.AppendInt(line, int64(i), 10)
	}
	for row := int64(0); size > 0; row++ {
		n, err := w.Write(append(line, '\n'))
		if err != nil {
			return err
		}
		size -= int64(n)
		line = strconv.AppendInt(line[:0], row%10, 10)
		for range 64 {
			line = append(line, ',')
			line = strconv.AppendFloat(line, random.Float64(), 'f', 6, 64)
		}
	}
	return nil
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
			image[0] = byte(row % 10)
			if _, err := t.Write(image); err != nil {
				return err
			}
		}
		size -= batch * record
	}
	return errors.Join(t.Close(), z.Close())
}
