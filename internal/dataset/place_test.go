package dataset_test

import (
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/insitu-ml/insitu/internal/dataset"
	"github.com/insitu-ml/insitu/internal/postgres"
	"github.com/insitu-ml/insitu/internal/testenv"
)

func TestEveryShardHasASegmentOfItsOwnAsLongAsThereAreEnough(t *testing.T) {
	t.Parallel()
	c, err := postgres.Connect(t.Context(), testenv.Training(t), postgres.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	shards, err := dataset.DefaultShards(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	err = pgx.BeginFunc(t.Context(), c, func(tx pgx.Tx) error {
		places, err := dataset.Places(t.Context(), tx, c.Dialect, 2*shards)
		if err != nil {
			return err
		}
		if !c.Dialect.Distributed {
			if shards != 2 || places != nil {
				t.Errorf("%d shards, places %v: expected two shards and no places on a server without segments", shards, places)
			}
			return nil
		}
		taken := map[int32]int{}
		for k, place := range places {
			var segment int32
			if err := tx.QueryRow(t.Context(), "select gp_segment_id from insitu_places where place = $1", place).Scan(&segment); err != nil {
				return err
			}
			if taken[segment]++; int(segment) != k%shards {
				t.Errorf("shard %d is on segment %d of %d", k, segment, shards)
			}
		}
		if len(taken) != shards {
			t.Errorf("shards a segment: %v, expected 2 on each of %d", taken, shards)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}
