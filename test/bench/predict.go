package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/insitu-ml/insitu/internal/postgres"
	"github.com/insitu-ml/insitu/internal/training"
)

// predicted is a model that predicts; the goals are those of the large one, whose work dwarfs a call.
type predicted struct {
	model
	images, rows                   int
	packs, batch, perRow, oneByOne goal
}

// predict compares the deployed SQL functions with ONNX Runtime on the same arrays and nothing else.
func predict(ctx context.Context, b *bench) error {
	small, err := b.images(ctx, dataKey{scaled(5_120, b.scale, 1000), 2, ordinary()})
	if err != nil {
		return err
	}
	for _, p := range []predicted{
		{large(), scaled(12_800, b.scale, 1000), scaled(5_120, b.scale, 512), atLeast(0.97), atLeast(0.92), goal{}, atLeast(0.85)},
		{softmax(), scaled(many, b.scale, 1000), scaled(20_480, b.scale, 512), goal{}, goal{}, atLeast(4), goal{}},
	} {
		job, err := b.job(ctx, p.model, small, 1, 1, nil)
		if err != nil {
			return err
		}
		model, err := b.trained(ctx, job, nil)
		if err != nil {
			return err
		}
		path := filepath.Join(b.dir, p.name+".onnx")
		if err := os.WriteFile(path, model.ONNX, 0o600); err != nil {
			return err
		}
		w, err := b.worker(ctx, "", "")
		if err != nil {
			return err
		}
		defer w.close()
		if _, err := w.do(map[string]any{"do": "load_model", "path": path}); err != nil {
			return err
		}
		if err := errors.Join(b.predictPacks(ctx, w, model, p), b.predictRows(ctx, w, model, p)); err != nil {
			return err
		}
	}
	return nil
}

// predictPacks is the training database: stored packs.
func (b *bench) predictPacks(ctx context.Context, w *worker, model training.Model, p predicted) error {
	images := p.images
	d, err := b.images(ctx, dataKey{images, 1, ordinary()})
	if err != nil {
		return err
	}
	file, err := b.rawFile(ctx, "packs.raw", "select data from "+postgres.Ident(d.Table)+" order by id")
	if err != nil {
		return err
	}
	var inside, plain []float64
	for round := range b.rounds + 1 { // the first is to warm up
		var bytes int64
		s, err := timed(func() error {
			return b.admin.QueryRow(ctx, "select sum(length(predict_onnx($1, $2, data, n))) from "+postgres.Ident(d.Table), model.ONNX, model.ONNXDigest).Scan(&bytes)
		})
		if err != nil {
			return postgres.Wrap(err, "predict_onnx")
		}
		if want := int64(images) * classes * 4; bytes != want {
			return fmt.Errorf("predict_onnx gave %d bytes, expected %d", bytes, want)
		}
		a, err := w.do(map[string]any{"do": "predict", "path": file, "rows": images, "size": pack})
		if err != nil {
			return err
		}
		if round > 0 {
			inside, plain = append(inside, s), append(plain, a.Seconds)
		}
	}
	b.add(fmt.Sprintf("%s, %d images: ONNX Runtime on arrays in memory, 256 at a time (limit) / predict_onnx over stored packs", p.name, images), p.packs, ratio, paired(plain, inside))
	return nil
}

// predictRows is the inference database: one image a row.
func (b *bench) predictRows(ctx context.Context, w *worker, model training.Model, p predicted) error {
	images := p.rows
	names := labels()
	c, err := b.served(ctx, model)
	if err != nil {
		return err
	}
	defer c.Close()
	if err := b.rowTable(ctx, c, "image_rows", "bytea", images); err != nil {
		return err
	}
	file := filepath.Join(b.dir, "rows.raw")
	if err := writeRaw(file, images); err != nil {
		return err
	}
	const (
		inBatches = "(select array_agg(pixels order by id) as imgs from image_rows group by id / 256) b, lateral predict_batch(b.imgs) p"
		inOne     = "(select predict_version('bench', 1, string_agg(pixels, ''::bytea order by id), count(*)::int) as p from image_rows group by id / 256) b"
	)
	if err := exec1(ctx, c, barest); err != nil {
		return err
	}
	if err := b.sameLabels(ctx, c, w, file, images, names, inBatches); err != nil {
		return err
	}
	ways := []struct {
		sql  string // "" is a plain side, in batches of size
		size int
		want int64
	}{
		{size: pack},
		{sql: "select count(p.label) from " + inBatches, want: int64(images)},
		{sql: "select sum(length(p)) from " + inOne, want: int64(images) * classes * 4},
		{size: 1},
		{sql: "select count(run_inference_task(pixels)) from image_rows", want: int64(images)},
		{sql: "select count(barest(pixels)) from image_rows", want: int64(images)},
	}
	taken := make([][]float64, len(ways))
	for round := range b.rounds + 1 { // the first is to warm up
		for i, way := range ways {
			var s float64
			if way.sql == "" {
				a, err := w.do(map[string]any{"do": "predict", "path": file, "rows": images, "size": way.size})
				if err != nil {
					return err
				}
				s = a.Seconds
			} else {
				var got int64
				if s, err = timed(func() error { return c.QueryRow(ctx, way.sql).Scan(&got) }); err != nil {
					return postgres.Wrap(err, way.sql)
				}
				if got != way.want {
					return fmt.Errorf("%s: %d, expected %d", way.sql, got, way.want)
				}
			}
			if round > 0 {
				taken[i] = append(taken[i], s)
			}
		}
	}
	what := fmt.Sprintf("%s, %d images: ", p.name, images)
	b.add(what+"ONNX Runtime, 256 at a time (limit) / rows by array_agg into predict_batch", p.batch, ratio, paired(taken[0], taken[1]))
	b.add(what+"the same limit / rows by string_agg into predict_version", goal{}, ratio, paired(taken[0], taken[2]))
	b.add(what+"run_inference_task row by row / predict_batch", p.perRow, times, paired(taken[4], taken[1]))
	b.add(what+"run_inference_task row by row / rows by string_agg into predict_version", goal{}, times, paired(taken[4], taken[2]))
	b.add(what+"ONNX Runtime, one at a time (limit) / run_inference_task row by row", p.oneByOne, ratio, paired(taken[3], taken[4]))
	b.add(what+"the barest function in PL/Python that gives the label, row by row / run_inference_task row by row", goal{}, ratio, paired(taken[5], taken[4]))
	b.add(what+"ONNX Runtime one at a time / 256 at a time, for comparison: what batching itself gives", goal{}, times, paired(taken[3], taken[0]))
	return nil
}

// barest is the least that a function in PL/Python must do for a label: no active version, no pictures, no checks.
const barest = `create or replace function barest(img bytea) returns text language plpython3u stable as $$
if "session" not in SD:
    import numpy, onnxruntime
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    model = plpy.execute("select onnx, manifest::text from model_blobs join models using (digest)")[0]
    SD["session"] = onnxruntime.InferenceSession(model["onnx"], options, providers=["CPUExecutionProvider"])
    SD["shape"], SD["numpy"], SD["classes"] = [1, *SD["session"].get_inputs()[0].shape[1:]], numpy, __import__("json").loads(model["manifest"])["classes"]
x = SD["numpy"].frombuffer(img, "uint8").reshape(SD["shape"])
return SD["classes"][int(SD["session"].run(None, {"input": x})[0].argmax())]
$$`

// labels are the classes' names.
func labels() []string {
	return strings.Fields("airplane automobile bird cat deer dog frog horse ship truck")
}

// servedManifest is what the inference schema knows of the model.
func servedManifest() string {
	return jsonText(map[string]any{"task": "classification", "classes": labels(), "input": map[string]any{"shape": []int{3, side, side}, "dtype": "uint8", "range": []int{0, 255}}})
}

// served makes an empty inference schema in which the model is active, and returns a session of it.
func (b *bench) served(ctx context.Context, model training.Model) (*postgres.Conn, error) {
	c, err := b.deployed(ctx, b.inference, "inference")
	if err != nil {
		return nil, err
	}
	for _, statement := range []struct {
		sql  string
		args []any
	}{
		{"insert into model_blobs values ($1, $2)", []any{model.ONNXDigest, model.ONNX}},
		{"insert into models (name, version, digest, manifest, metrics) values ('bench', 1, $1, $2, '{}')", []any{model.ONNXDigest, servedManifest()}},
		{"insert into activations (ordinal, name, version) values (1, 'bench', 1)", nil},
	} {
		if err := exec1(ctx, c, statement.sql, statement.args...); err != nil {
			c.Close()
			return nil, err
		}
	}
	return c, nil
}

// sameLabels makes sure that both sides predict the same.
func (b *bench) sameLabels(ctx context.Context, c *postgres.Conn, w *worker, file string, images int, names []string, batches string) error {
	a, err := w.do(map[string]any{"do": "predict", "path": file, "rows": images, "size": pack})
	if err != nil {
		return err
	}
	var inBatch, single int64
	if err := c.QueryRow(ctx, "select sum(array_position($1::text[], p.label) - 1) from "+batches, names).Scan(&inBatch); err != nil {
		return postgres.Wrap(err, "predict_batch")
	}
	if err := c.QueryRow(ctx, "select sum(array_position($1::text[], run_inference_task(pixels)) - 1) from image_rows", names).Scan(&single); err != nil {
		return postgres.Wrap(err, "run_inference_task")
	}
	// A tie that rounding decides may move a label or two of thousands.
	for _, sum := range []int64{inBatch, single} {
		if diff := sum - a.Checksum; diff > 20 || diff < -20 {
			return fmt.Errorf("the sides predict differently: class numbers add up to %d, %d and %d", a.Checksum, inBatch, single)
		}
	}
	return nil
}

// writeRaw writes the images of a row table one after the other.
func writeRaw(path string, images int) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer f.Close()
	for g, i := newGenerator(), 0; i < images; i++ {
		_, image := g.next()
		if _, err := f.Write(image); err != nil {
			return err
		}
	}
	return nil
}
