package dataset

import (
	"context"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/insitu-ml/insitu/internal/postgres"
)

// PackTable is what follows "create table <name>" for a table of packs.
//
// Where rows lie on segments, the column place is the distribution key: all packs of a shard have the same value,
// and the values of different shards lie on different segments as long as there are enough, see Places.
func PackTable(d postgres.Dialect) string {
	columns, key := "split text not null, shard int not null, id bigint not null, n int not null, labels bytea not null, data bytea not null", "shard, id"
	if d.Distributed {
		columns, key = columns+", place int not null", "place, "+key
	}
	return " (" + columns + ", primary key (" + key + "))" + d.DistributedBy("place")
}

// packColumns are the columns of a pack table in the order in which they are loaded.
func packColumns(d postgres.Dialect) []string {
	columns := strings.Fields("split shard id n labels data")
	if d.Distributed {
		columns = append(columns, "place")
	}
	return columns
}

// DefaultShards is how many parts of a dataset train side by side unless the user says otherwise:
// one a segment, or two on a server without segments.
func DefaultShards(ctx context.Context, c *postgres.Conn) (int, error) {
	if !c.Dialect.Distributed {
		return 2, nil
	}
	return segments(ctx, c)
}

// segments counts the primary segments of a server that has them.
func segments(ctx context.Context, q querier) (n int, err error) {
	err = q.QueryRow(ctx, "select count(*) from gp_segment_configuration where role = 'p' and content >= 0").Scan(&n)
	return n, postgres.Wrap(err, "count the segments")
}

// Places are the values of the column place, one a shard: shard k lies on segment k modulo their number.
// They are found by trying in a table with the same kind of key, because the hash function is the server's affair.
// Nil where rows have one place only.
func Places(ctx context.Context, tx pgx.Tx, d postgres.Dialect, shards int) ([]int32, error) {
	if !d.Distributed {
		return nil, nil
	}
	const doing = "find a segment for every shard"
	segments, err := segments(ctx, tx)
	if err != nil {
		return nil, err
	}
	if _, err := tx.Exec(ctx, "create temp table insitu_places (place int) on commit drop"+d.DistributedBy("place")); err != nil {
		return nil, postgres.Wrap(err, doing)
	}
	// 64 tries for each value that is needed: a segment that gets too few of them is as good as impossible.
	if _, err := tx.Exec(ctx, "insert into insitu_places select generate_series(1, $1::int)", 64*max(shards, segments)); err != nil {
		return nil, postgres.Wrap(err, doing)
	}
	rows, err := tx.Query(ctx, "select gp_segment_id, place from insitu_places order by place")
	if err != nil {
		return nil, postgres.Wrap(err, doing)
	}
	free := map[int32][]int32{} // values by segment
	var segment, place int32
	if _, err := pgx.ForEachRow(rows, []any{&segment, &place}, func() error {
		free[segment] = append(free[segment], place)
		return nil
	}); err != nil {
		return nil, postgres.Wrap(err, doing)
	}
	out := make([]int32, shards)
	for k := range out {
		segment, round := int32(k%segments), k/segments
		if round >= len(free[segment]) {
			return nil, fmt.Errorf("%s: of %d values %d fell on segment %d, expected more than %d", doing, 64*max(shards, segments), len(free[segment]), segment, round)
		}
		out[k] = free[segment][round]
	}
	return out, nil
}
