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
	defaultBucket = 16 << 20
	// maxBuckets bounds the write buffers; beyond 8 GiB of data the buckets grow instead.
	maxBuckets = 512
	// chunkBytes is a bucket's write buffer. Larger records are written one by one.
	chunkBytes = 32 << 10
)

// buckets is an external shuffle: rows go to random buckets of their split, all within one scratch file;
// a bucket that is read back whole and shuffled, one after the other, makes a uniform random order.
type buckets struct {
	manifest *Manifest
	file     *os.File
	end      int64 // of the file
	record   int   // bytes
	splits   [3][]bucket
	random   *rand.Rand
}

// bucket is a list of chunks of the scratch file and what is not written yet.
type bucket struct {
	chunks []chunk
	rows   int
	buffer []byte
}

type chunk struct {
	offset int64
	size   int
}

func newBuckets(workDir string, m *Manifest, bucketBytes int64) (*buckets, error) {
	b := &buckets{manifest: m, record: labelBytes + m.Input.Bytes(), random: random(m.Split.Seed, scatterStream)}
	total := m.Rows * int64(b.record)
	size := max(bucketBytes, (total+maxBuckets-1)/maxBuckets)
	for i, name := range SplitNames() {
		n := (m.Splits.Of(name).Rows*int64(b.record) + size - 1) / size
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
	if len(record) > chunkBytes {
		return b.write(k, record)
	}
	if len(k.buffer)+len(record) > chunkBytes {
		if err := b.write(k, k.buffer); err != nil {
			return err
		}
		k.buffer = k.buffer[:0]
	}
	if k.buffer == nil {
		k.buffer = make([]byte, 0, chunkBytes)
	}
	k.buffer = append(k.buffer, record...)
	return nil
}

func (b *buckets) write(k *bucket, p []byte) error {
	if len(p) == 0 {
		return nil
	}
	if _, err := b.file.WriteAt(p, b.end); err != nil {
		return fmt.Errorf("write %d bytes of shuffled rows to the work directory: %w", len(p), err)
	}
	k.chunks = append(k.chunks, chunk{b.end, len(p)})
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

// read returns the bucket's rows, shuffled, as offsets into one buffer, which is reused.
func (b *buckets) read(k *bucket, buffer []byte, random *rand.Rand) (rows []byte, order []int, err error) {
	rows = buffer[:0]
	for _, c := range k.chunks {
		n := len(rows)
		if cap(rows) < n+c.size {
			grown := make([]byte, n, k.rows*b.record)
			copy(grown, rows)
			rows = grown
		}
		rows = rows[:n+c.size]
		if _, err := b.file.ReadAt(rows[n:], c.offset); err != nil {
			return nil, nil, fmt.Errorf("read shuffled rows from the work directory: %w", err)
		}
	}
	return rows, random.Perm(k.rows), nil
}

// Packs yields the packs of all splits in the order of their ids, the same ones each time.
func (p *Prepared) Packs() iter.Seq2[*Pack, error] {
	return func(yield func(*Pack, error) bool) {
		b, m := p.buckets, p.Manifest
		random := random(m.Split.Seed, shuffleStream)
		width := b.record - labelBytes
		var buffer []byte
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
			for k := range b.splits[i] {
				rows, order, err := b.read(&b.splits[i][k], buffer, random)
				if err != nil {
					yield(nil, err)
					return
				}
				buffer = rows
				for _, at := range order {
					record := rows[at*b.record:][:b.record]
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
