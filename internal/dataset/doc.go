// Package dataset turns a file of examples into packed mini-batches in a training database.
//
// Fetch brings the file to this machine and hashes it, Scan validates every
// example and counts, Pack splits, shuffles and packs, Load copies the packs
// in one transaction. It trains nothing, knows no flags and no environment.
//
// # Memory
//
// The input is streamed three times (hash, validate, pack) and never held.
// What is held at once is at most
//
//	one pack (pack size times the bytes of one example)
//	+ one shuffle bucket (16 MiB, or 1/512 of the decoded data if that is more)
//	+ the shuffle's write buffers (512 times 32 KiB)
//	+ one encoded example (CSV record or image file of at most 16 MiB, decoded image of at most 16 million pixels)
//	+ for Parquet, one decoded page of each column that is read
//
// Measured, whole step, PostgreSQL and S3 on the same two cores: 56 MiB of resident memory for a CSV of 1 GB
// (1.7 million rows of 64 float32, 25 s), 76 MiB for a CIFAR-10 tar.gz of 1 GB (330,000 images, 17 s);
// test/largeinput makes both files.
//
// The decoded data is kept once in a file of the work directory that has no
// name, so it is gone however the process ends.
package dataset
