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
//	one pack (pack size times the bytes of one example), and as it is sent once more unless it has more than 4 MiB
//	+ one shuffle bucket (8 MiB, or 1/1024 of the decoded data if that is more)
//	+ the shuffle's write buffers (16 KiB a bucket, at most 1024 of them)
//	+ one encoded example (CSV record or image file of at most 16 MiB, decoded image of at most 16 million pixels)
//	+ for Parquet, one decoded page of each column that is read
//
// The step stays below 64 MiB of resident memory, of which 13 are the program's before it reads anything; a test of
// internal/steps/uploaddataset holds it to that. Measured on inputs of 2 GB that test/largeinput makes (docs/testing.md):
//
//	CSV, 3.5 million rows of 64 float32      52 MiB
//	CIFAR-10 tar.gz, 660,000 images          47 MiB
//	NPZ, 7.8 million rows of 64 float32      55 MiB
//	Parquet, 7.7 million rows of 65 columns 283 MiB: pages of 1 MiB in every column, which is its writer's choice
//
// The decoded data is kept once in a file of the work directory that has no
// name, so it is gone however the process ends.
package dataset
