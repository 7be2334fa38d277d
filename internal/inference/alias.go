package inference

import (
	"context"
	"errors"
	"fmt"
	"strconv"

	"github.com/jackc/pgx/v5"

	"github.com/insitu-ml/insitu/internal/fault"
	"github.com/insitu-ml/insitu/internal/postgres"
	"github.com/insitu-ml/insitu/internal/registry"
)

// Aliases is what switching asks of the model registry.
type Aliases interface {
	ModelVersion(ctx context.Context, name string, version int) (registry.ModelVersion, error)
	Alias(ctx context.Context, name, alias string) (registry.ModelVersion, error)
	SetAlias(ctx context.Context, name, alias string, version int) error
	DeleteAlias(ctx context.Context, name, alias string) error
	FollowAlias(ctx context.Context, v registry.ModelVersion, alias string) (supported bool, err error)
}

// MoveAlias makes the version the holder of the alias, if it is not, and enters that into the ledger.
// moved says that another one held it, or none.
func MoveAlias(ctx context.Context, c *postgres.Conn, schema string, r Aliases, alias string, v Version) (moved bool, err error) {
	holder, err := holder(ctx, r, v.Name, alias)
	if err != nil {
		return false, err
	}
	if moved = holder.Version != v.Version; moved {
		if holder, err = r.ModelVersion(ctx, v.Name, v.Version); err != nil {
			return false, err
		}
		if err := r.SetAlias(ctx, v.Name, alias, v.Version); err != nil {
			return false, err
		}
	}
	if _, err := r.FollowAlias(ctx, holder, alias); err != nil {
		return moved, err
	}
	return moved, locked(ctx, c, schema, func(tx pgx.Tx) error {
		s, err := readState(ctx, tx, schema)
		if err != nil || s.active() != v || s.followed && !moved {
			return err
		}
		_, err = enter(ctx, tx, schema, followed, v, "", map[string]any{"alias": alias})
		return err
	})
}

// Holder is the number of the version that holds the alias, 0 if none does.
func Holder(ctx context.Context, r Aliases, name, alias string) (int, error) {
	v, err := holder(ctx, r, name, alias)
	return v.Version, err
}

// holder is the version that holds the alias, version 0 if none does.
func holder(ctx context.Context, r Aliases, name, alias string) (registry.ModelVersion, error) {
	v, err := r.Alias(ctx, name, alias)
	if errors.Is(err, registry.ErrNotFound) {
		return registry.ModelVersion{}, nil
	}
	return v, err
}

// Active is the version that predictions use; the zero Version before the first one, and where nothing was deployed.
func Active(ctx context.Context, c *postgres.Conn, schema string) (Version, error) {
	if has, err := hasLedger(ctx, c, schema); err != nil || !has {
		return Version{}, err
	}
	s, err := readState(ctx, c, schema)
	return s.active(), err
}

// TakeBack is what remains to be done when the deployment of a version failed for good: the version must not be active and must not hold the alias.
// A version that this deployment switched to goes out of service again. So does one that was active before (wasActive) if it no longer predicts
// what it should; any other failure says nothing about it. The alias goes to the active version; where there is none, to the version
// that the promotion took it from, if it took it from one. A route to the version ends. It returns in words how things stand.
func TakeBack(ctx context.Context, c *postgres.Conn, schema string, r Aliases, alias string, v Version, wasActive bool, cause error) (string, error) {
	var active Version
	has, err := hasLedger(ctx, c, schema)
	if err != nil {
		return "", err
	}
	if has {
		s, err := readState(ctx, c, schema)
		if err != nil {
			return "", err
		}
		active = s.active()
		if active == v && (!wasActive || errors.As(cause, new(*apartError))) && s.before() != (Version{}) {
			if _, err := SwitchBack(ctx, c, schema, s.before(), cause.Error()); err != nil {
				return "", err
			}
			active = s.before()
		}
		if err := locked(ctx, c, schema, func(tx pgx.Tx) error {
			if active != v && !wasActive {
				if err := endRoute(ctx, tx, schema, v); err != nil {
					return err
				}
			}
			_, err := enter(ctx, tx, schema, failed, v, cause.Error(), nil)
			return err
		}); err != nil {
			return "", err
		}
	}
	if active == v {
		return fmt.Sprintf("version %d stays active", v.Version), nil
	}
	serving := "no version is active"
	if active != (Version{}) {
		serving = fmt.Sprintf("version %d is active", active.Version)
	}
	if active.Name != v.Name && active != (Version{}) {
		serving = fmt.Sprintf("model %q version %d is active", active.Name, active.Version)
	}
	held, err := holder(ctx, r, v.Name, alias)
	if err != nil {
		return "", aliasLeft(serving, alias, err)
	}
	if held.Version != v.Version {
		return serving, nil
	}
	if active.Name == v.Name {
		if _, err := MoveAlias(ctx, c, schema, r, alias, active); err != nil {
			return "", aliasLeft(serving, alias, err)
		}
		return fmt.Sprintf("%s, and the alias %q went back to it", serving, alias), nil
	}
	if previous, _ := strconv.Atoi(held.Tags[registry.TagPrevious+alias]); previous > 0 && previous != v.Version { // empty: nobody
		if _, err := MoveAlias(ctx, c, schema, r, alias, Version{v.Name, previous}); err != nil {
			return "", aliasLeft(serving, alias, err)
		}
		return fmt.Sprintf("%s, and the alias %q went back to version %d", serving, alias, previous), nil
	}
	if err := r.DeleteAlias(ctx, v.Name, alias); err != nil {
		return "", aliasLeft(serving, alias, err)
	}
	return fmt.Sprintf("%s, and the alias %q was taken away", serving, alias), nil
}

// aliasLeft says that the database is right and the registry not yet; it keeps the class of err.
func aliasLeft(serving, alias string, err error) error {
	wrapped := fmt.Errorf("%s, but the alias %q could not be moved: %w", serving, alias, err)
	if fault.Of(err) == fault.Temporary {
		return fault.AsTemporary(wrapped)
	}
	return wrapped
}
