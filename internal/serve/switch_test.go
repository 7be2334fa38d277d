package serve

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"regexp"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/zap"

	"github.com/insitu-ml/insitu/database"
	"github.com/insitu-ml/insitu/internal/changelog"
	"github.com/insitu-ml/insitu/internal/changelog/changelogtest"
	"github.com/insitu-ml/insitu/internal/inference"
	"github.com/insitu-ml/insitu/internal/postgres"
)

// Versions are deployed, switched and rolled back under load: no request fails, and every answer has the label of the version it names.
// It takes all of the processor and so runs alone: other tests of this package look at what happens within seconds.
func TestClientsNoticeNothingOfDeploymentsAndRollbacks(t *testing.T) {
	const least, rounds, clients = 6000, 40, 16 // requests, and switches forth and back
	cfg := changelogtest.Server(t)
	schema := changelogtest.Schema(t, cfg, "Switched")
	session, err := changelog.Open(t.Context(), changelog.Schema{Database: cfg, Name: schema, Path: inference.ChangelogPath, Log: zap.NewNop(),
		Liquibase: changelog.Liquibase{Path: changelogtest.Jars(t), Java: "java", TempDir: t.TempDir()}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(session.Close)
	base, err := changelog.Load(database.Inference, session.Conn.Dialect)
	if err != nil {
		t.Fatal(err)
	}
	// Version 1, 3, 5 ... of the model say cat, the others dog, whatever they are asked.
	activate := func(n int) {
		t.Helper()
		if _, err := inference.Activate(t.Context(), session.Conn, schema, inference.Version{Name: "m", Version: n}, inference.Evidence{}); err != nil {
			t.Fatal(err)
		}
	}
	deploy := func(n int) {
		t.Helper()
		onnx, err := os.ReadFile("../inference/testdata/" + []string{"two", "one"}[n%2] + ".onnx")
		if err != nil {
			t.Fatal(err)
		}
		sum := sha256.Sum256(onnx)
		m := inference.Model{Name: "m", Version: n, Digest: hex.EncodeToString(sum[:]), Metrics: "{}", ONNX: onnx,
			Manifest: `{"classes":["cat","dog"],"input":{"shape":[3],"dtype":"uint8","range":[0,255]}}`}
		if _, _, err := inference.Deploy(t.Context(), session, schema, base, m); err != nil {
			t.Fatal(err)
		}
		activate(n)
	}
	deploy(1)
	deploy(2)
	s := start(t, tenant{session.Conn, cfg, schema}, func(c *Config) { c.Sessions, c.Queue, c.RequestTimeout = 2, 64, time.Minute })

	var asked, failed, mixed atomic.Int64
	var seen [2]atomic.Int64 // answers by an even and by an odd version
	var done atomic.Bool
	var all sync.WaitGroup
	for client := range clients {
		all.Add(1)
		go func() {
			defer all.Done()
			for !done.Load() {
				asked.Add(1)
				// Requests of one picture are predicted together with those that wait; some bring several, some bring rows.
				var a answer
				switch client % 4 {
				case 0:
					a = s.post(t, "/v1/predict", []byte{1, 2, 3}, []byte{4, 5, 6}, []byte{7, 8, 9})
				case 1:
					a = s.send(t, "/v1/predict", "application/json", bytes.NewReader([]byte(`{"rows": [[1, 2, 3], [4, 5, 6]]}`)))
				default:
					a = s.post(t, "/v1/predict", []byte{1, 2, 3})
				}
				var p predicted
				if a.status != http.StatusOK || json.Unmarshal([]byte(a.body), &p) != nil || len(p.Predictions) == 0 {
					failed.Add(1)
					t.Logf("%d %s", a.status, a.body)
					continue
				}
				want := []string{"dog", "cat"}[p.Model.Version%2]
				for _, q := range p.Predictions {
					if q.Label != want || q.Model != nil {
						mixed.Add(1)
						t.Log(a.body)
					}
				}
				seen[p.Model.Version%2].Add(1)
			}
		}()
	}
	defer all.Wait() // also when something below fails
	defer done.Store(true)
	deployments := 0
	for n := 0; n < rounds || asked.Load() < least; n++ {
		if n == 10 || n == 30 { // by Liquibase, as deploy-inference-db does it
			deployments++
			deploy(2 + deployments)
		} else {
			activate(2)
		}
		time.Sleep(5 * time.Millisecond)
		if _, err := inference.SwitchBack(t.Context(), session.Conn, schema, inference.Version{Name: "m", Version: 1}, ""); err != nil {
			t.Fatal(err)
		}
		time.Sleep(5 * time.Millisecond)
	}
	done.Store(true)
	all.Wait()
	requests, switches := asked.Load(), 0
	if err := session.Conn.QueryRow(t.Context(), "select count(*) from "+postgres.Ident(schema, "activations")).Scan(&switches); err != nil {
		t.Fatal(err)
	}
	batches := 0
	if m := regexp.MustCompile(`(?m)^insitu_batches_total ([0-9]+)`).FindStringSubmatch(s.get(t, "/metrics").body); m != nil {
		batches, _ = strconv.Atoi(m[1])
	}
	said := fmt.Sprintf("%d requests, %d statements for those with pictures, %d switches, %d deployments: %d failed, %d answers of another version than they name; %d by an odd version, %d by an even one",
		requests, batches, switches, deployments, failed.Load(), mixed.Load(), seen[1].Load(), seen[0].Load())
	t.Log(said)
	if failed.Load() > 0 || mixed.Load() > 0 || seen[0].Load()+seen[1].Load() != requests || min(seen[0].Load(), seen[1].Load()) < 100 {
		t.Error(said)
	}
	if batches == 0 || int64(batches) >= requests*3/4 {
		t.Errorf("%d statements for about %d requests with pictures: none waited for another", batches, requests*3/4)
	}
}
