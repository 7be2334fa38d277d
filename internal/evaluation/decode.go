package evaluation

import (
	"encoding/binary"
	"fmt"
	"math"
)

// decodeLabels reads n little-endian int32 class indices and checks that each is below classes.
func decodeLabels(b []byte, n, classes int) ([]int32, error) {
	if err := expectValues(b, n, 1, "labels"); err != nil {
		return nil, err
	}
	out := make([]int32, n)
	for i := range out {
		out[i] = int32(binary.LittleEndian.Uint32(b[4*i:]))
		if out[i] < 0 || int(out[i]) >= classes {
			return nil, fmt.Errorf("row %d has the label %d, expected 0 to %d", i, out[i], classes-1)
		}
	}
	return out, nil
}

// decodePredictions reads n x outputs little-endian float32, all of them finite.
func decodePredictions(b []byte, n, outputs int) ([]float32, error) {
	return decodeFloats(b, n, outputs, "predictions")
}

func decodeFloats(b []byte, n, outputs int, what string) ([]float32, error) {
	if err := expectValues(b, n, outputs, what); err != nil {
		return nil, err
	}
	out := make([]float32, n*outputs)
	for i := range out {
		out[i] = math.Float32frombits(binary.LittleEndian.Uint32(b[4*i:]))
		if v := float64(out[i]); math.IsNaN(v) || math.IsInf(v, 0) {
			return nil, fmt.Errorf("%s: row %d, value %d is %g: %w", what, i/outputs, i%outputs, v, ErrNotFinite)
		}
	}
	return out, nil
}

// expectValues checks the length by division, so that no n can overflow it.
func expectValues(b []byte, n, outputs int, what string) error {
	if n < 0 || outputs < 1 {
		return fmt.Errorf("%d rows of %d %s make no array", n, outputs, what)
	}
	values := len(b) / 4
	if len(b)%4 != 0 || values%outputs != 0 || values/outputs != n {
		if n > 0 && values > 0 && len(b)%4 == 0 && values%n == 0 {
			return fmt.Errorf("%s have %d values a row, expected %d", what, values/n, outputs)
		}
		return fmt.Errorf("%s have %d bytes, expected 4 bytes for each of %d rows x %d", what, len(b), n, outputs)
	}
	return nil
}
