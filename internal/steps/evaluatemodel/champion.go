package evaluatemodel

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"go.uber.org/zap"

	datasets "github.com/insitu-ml/insitu/internal/dataset"
	"github.com/insitu-ml/insitu/internal/evaluation"
	"github.com/insitu-ml/insitu/internal/fault"
	"github.com/insitu-ml/insitu/internal/inference"
	"github.com/insitu-ml/insitu/internal/postgres"
	"github.com/insitu-ml/insitu/internal/registry"
)

// champion is the holder of the alias; nil if nobody holds it.
type champion struct {
	evaluation.Champion
	model inference.Model // empty if it could not be fetched
}

func (c *champion) asScored() *evaluation.Champion {
	if c == nil {
		return nil
	}
	return &c.Champion
}

// champion finds the holder of the alias and scores it on the candidate's test rows.
//
// What is wrong with the champion for good (a changed artifact, other classes, an input that does
// not fit) must not stop every later model: it becomes the reason why it cannot be compared.
// What may pass (network, server) or is a mistake of configuration is returned as an error:
// the gate must not get weaker because a server was down.
func (e *evaluator) champion(ctx context.Context, candidate inference.Model, data dataset, scores *evaluation.Scores) (*champion, error) {
	holder, err := e.models.Alias(ctx, e.Model, e.Alias)
	switch {
	case errors.Is(err, registry.ErrNotFound):
		e.log.Info("no champion", zap.String("alias", e.Alias))
		return nil, nil
	case err != nil:
		return nil, err
	}
	c := &champion{Champion: evaluation.Champion{Version: strconv.Itoa(holder.Version)}}
	if holder.Version == candidate.Version {
		c.Same = true
		return c, nil
	}
	incomparable := func(err error) (*champion, error) {
		if ctx.Err() != nil || fault.Of(err) != fault.Permanent || !ofTheModel(postgres.State(err)) {
			return nil, fmt.Errorf("champion version %s: %w", c.Version, err)
		}
		c.Incomparable = oneLine(err)
		e.log.Warn("champion cannot be compared", zap.String("version", c.Version), zap.Error(err))
		return c, nil
	}
	if c.model, err = inference.Fetch(ctx, e.models, e.Model, holder.Version); err != nil {
		return incomparable(err)
	}
	if c.model.DatasetDigest != data.Digest {
		learned, err := e.learned(ctx, c.model)
		if err == nil {
			err = fits(learned, data)
		}
		if err != nil {
			return incomparable(err)
		}
		c.OtherData, c.MayKnow = true, !data.TestsUnseenBy(&learned)
	}
	theirs, err := e.score(ctx, c.model, data, 1)
	if err != nil {
		return incomparable(err)
	}
	c.Metrics = theirs.Metrics()
	if c.Comparison, err = evaluation.Compare(scores, theirs); err != nil {
		return nil, err
	}
	return c, nil
}

// ofTheModel says whether a SQLSTATE blames the model: errors of the Python that predicts (38, on
// Greenplum XX000) and of data it cannot take (22); not a cancelled statement, say, or a full disk.
// The empty state is an error of our own finding.
func ofTheModel(state string) bool {
	return state == "" || state == "XX000" || strings.HasPrefix(state, "38") || strings.HasPrefix(state, "22")
}

// learned is what the database, or else the registry, knows of the dataset a model was trained on.
func (e *evaluator) learned(ctx context.Context, m inference.Model) (datasets.Manifest, error) {
	d, err := e.db.dataset(ctx, m.DatasetDigest)
	if errors.Is(err, errNoDataset) {
		err = json.Unmarshal([]byte(m.Manifest), &d.Manifest)
	}
	return d.Manifest, err
}

// fits says what about the champion's dataset does not fit the candidate's, as far as it is known; what is not known
// shows when it is scored.
func fits(theirs datasets.Manifest, data dataset) error {
	switch {
	case theirs.Classes != nil && !slices.Equal(theirs.Classes, data.Classes):
		return fmt.Errorf("its classes are %s, the dataset's are %s", list(theirs.Classes), list(data.Classes))
	case theirs.Input.Shape != nil && !slices.Equal(theirs.Input.Shape, data.Input.Shape),
		theirs.Input.DType != "" && theirs.Input.DType != data.Input.DType:
		return fmt.Errorf("its input is %s %v, the dataset's is %s %v", theirs.Input.DType, theirs.Input.Shape, data.Input.DType, data.Input.Shape)
	}
	return nil
}

// list names at most five classes.
func list(classes []string) string {
	if len(classes) > 5 {
		return fmt.Sprintf("%s and %d more", strings.Join(classes[:4], ", "), len(classes)-4)
	}
	return strings.Join(classes, ", ")
}

// oneLine is the first line of an error, cut to what fits into a sentence.
func oneLine(err error) string {
	text, _, _ := strings.Cut(err.Error(), "\n")
	if r := []rune(text); len(r) > 200 {
		text = string(r[:200]) + "..."
	}
	return text
}
