package training

import "github.com/insitu-ml/insitu/internal/postgres"

// Sessions are the driver's; between two epochs they are free.
func (d *Driver) Sessions() []*postgres.Conn { return d.conns }
