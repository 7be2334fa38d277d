package localservices

import (
	"os"
	"path/filepath"
	"syscall"
	"testing"
)

// Not parallel: the umask is the process's.
func TestTheServiceAccountGetsThroughWhatIsMadeWhateverTheUmask(t *testing.T) {
	before := syscall.Umask(0o077)
	defer syscall.Umask(before)
	root := t.TempDir()
	if err := makeState(filepath.Join(root, "insitu", "state")); err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{"insitu", "insitu/state"} {
		info, err := os.Stat(filepath.Join(root, dir))
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode().Perm() != 0o711 {
			t.Errorf("%s has mode %v, expected 0711", dir, info.Mode().Perm())
		}
	}
}
