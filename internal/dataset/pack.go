package dataset

import (
	"fmt"
	"iter"
	"math/rand/v2"
	"os"
)

// Pack is one row of a pack table. It is valid until the next one is asked for.
type Pack struct {
	Split  string
	Shard  int32
	ID     int64
	Rows   int32
	Labels []byte // Rows little-endian int32 or float32
	Data   []byte // Rows examples, C order
}

const (
	labelBytes = 4
	// defaultBucket is what one shuffle bucket should hold, in bytes: it is read into memory whole.
	defaultBucket = 8 << 20
	// maxBuckets bounds the write buffers; beyond 8 GiB of data the buckets grow instead.
	maxBuckets = 1024
	// chunkBytes is a bucket's write buffer. Larger records are written one by one.
	chunkBytes = 16 << 10
)

// buckets is an external shuffle: rows go to random buckets of their split, all within one scratch file;
// a bucket that is read back whole and shuffled, one after the other, makes a uniform random order.
// How many buckets there are decides the order, so the constants above are part of what a digest means.
type buckets struct {
	manifest *Manifest
	file     *os.File
	end      int64 // of the file
	record   int   // bytes
	chunk    int   // bytes: as many records as a write buffer holds, at least one
	splits   [3][]bucket
	random   *rand.Rand
}

// bucket is a list of chunks of the scratch file, all full but the last, and what is not written yet.
type bucket struct {
	chunks []int64 // offsets
	rows   int
	buffer []byte
}

func newBuckets(workDir string, m *Manifest, bucketBytes int64) (*buckets, error) {
	record := labelBytes + m.Input.Bytes()
	b := &buckets{manifest: m, record: record, chunk: max(1, chunkBytes/record) * record, random: random(m.Split.Seed, scatterStream)}
	total := m.Rows * int64(record)
	size := max(bucketBytes, (total+maxBuckets-1)/maxBuckets)
	for i, name := range SplitNames() {
		n := (m.Splits.Of(name).Rows*int64(record) + size - 1) / size
		b.splits[i] = make([]bucket, max(1, n))
	}
	var err error
	b.file, err = scratch(workDir)
	return b, err
}

func (b *buckets) close() error { return b.file.Close() }

func (b *buckets) put(split int, record []byte) error {
	all := b.splits[split]
	k := &all[b.random.IntN(len(all))]
	k.rows++
	if b.chunk == b.record {
		return b.write(k, record)
	}
	if k.buffer == nil {
		k.buffer = make([]byte, 0, b.chunk)
	}
	if k.buffer = append(k.buffer, record...); len(k.buffer) < b.chunk {
		return nil
	}
	err := b.write(k, k.buffer)
	k.buffer = k.buffer[:0]
	return err
}

func (b *buckets) write(k *bucket, p []byte) error {
	if len(p) == 0 {
		return nil
	}
	if _, err := b.file.WriteAt(p, b.end); err != nil {
		return fmt.Errorf("write %d bytes of shuffled rows to the work directory: %w", len(p), err)
	}
	k.chunks = append(k.chunks, b.end)
	b.end += int64(len(p))
	return nil
}

// flush writes what is buffered and frees the buffers.
func (b *buckets) flush() error {
	for s := range b.splits {
		for i := range b.splits[s] {
			k := &b.splits[s][i]
			if err := b.write(k, k.buffer); err != nil {
				return err
			}
			k.buffer = nil
		}
	}
	return nil
}

// largest is the number of rows in the fullest bucket.
func (b *buckets) largest() (rows int) {
	for _, split := range b.splits {
		for _, k := range split {
			rows = max(rows, k.rows)
		}
	}
	return rows
}

// read fills rows with a bucket's rows, in the order they came.
func (b *buckets) read(k *bucket, rows []byte) error {
	for _, offset := range k.chunks {
		n := min(b.chunk, len(rows))
		if _, err := b.file.ReadAt(rows[:n], offset); err != nil {
			return fmt.Errorf("read shuffled rows from the work directory: %w", err)
		}
		rows = rows[n:]
	}
	return nil
}

// Packs yields the packs of all splits in the order of their ids, the same ones each time.
func (p *Prepared) Packs() iter.Seq2[*Pack, error] {
	return func(yield func(*Pack, error) bool) {
		b, m := p.buckets, p.Manifest
		random := random(m.Split.Seed, shuffleStream)
		width := b.record - labelBytes
		// One bucket at a time, in space that all of them share.
		space, order := make([]byte, b.largest()*b.record), make([]int32, b.largest())
		var id int64
		for i, name := range SplitNames() {
			pack := &Pack{Split: name, Labels: make([]byte, 0, m.PackSize*labelBytes), Data: make([]byte, 0, m.PackSize*width)}
			ordinal := int64(0)
			emit := func() bool {
				pack.ID, pack.Shard = id, int32(ordinal%int64(m.Shards))
				pack.Rows = int32(len(pack.Labels) / labelBytes)
				id, ordinal = id+1, ordinal+1
				ok := yield(pack, nil)
				pack.Labels, pack.Data = pack.Labels[:0], pack.Data[:0]
				return ok
			}
			for at := range b.splits[i] {
				k := &b.splits[i][at]
				rows, order := space[:k.rows*b.record], order[:k.rows]
				if err := b.read(k, rows); err != nil {
					yield(nil, err)
					return
				}
				permute(order, random)
				for _, row := range order {
					record := rows[int(row)*b.record:][:b.record]
					pack.Labels = append(pack.Labels, record[:labelBytes]...)
					pack.Data = append(pack.Data, record[labelBytes:]...)
					if len(pack.Labels) == m.PackSize*labelBytes && !emit() {
						return
					}
				}
			}
			if len(pack.Labels) > 0 && !emit() {
				return
			}
		}
	}
}

// permute fills order with its indices in a random order.
func permute(order []int32, random *rand.Rand) {
	for i := range order {
		order[i] = int32(i)
	}
	random.Shuffle(len(order), func(i, j int) { order[i], order[j] = order[j], order[i] })
}
