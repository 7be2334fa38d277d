package localrun_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/insitu-ml/insitu/internal/localrun"
)

// asks is a workflow that asks a person in between if the parameter mode says so, and if the task before says so.
const asks = head + `
    - name: main
      dag:
        tasks:
          - {name: a, template: work}
          - {name: ask, depends: a, template: ask, when: "'{{workflow.parameters.mode}}' == 'slow' && '{{tasks.a.outputs.parameters.value}}' == 'yes'"}
          - name: b
            depends: ask.Succeeded || ask.Skipped
            template: work
            arguments: {parameters: [{name: in, value: "{{=workflow.parameters.mode == 'slow' ? (tasks.ask?.outputs?.parameters?.decision ?? 'none') : 'nobody'}}"}]}
    - name: ask
      inputs: {parameters: [{name: decision, default: approve, enum: [approve, reject]}]}
      outputs: {parameters: [{name: decision, valueFrom: {supplied: {}, default: approve}}]}
      suspend: {}
`

func TestATaskThatWouldWaitForAPersonIsSkippedByItsCondition(t *testing.T) {
	t.Parallel()
	b := newBench(t, asks+step("work", ""), map[string]string{"work": `echo "${IN:-yes}" > $OUT/value`})
	want := []string{"a Succeeded 0 value=yes", "ask Skipped 0", "b Succeeded 0 value=nobody"}
	if diff := cmp.Diff(want, summary(b.run(t, t.Context(), nil))); diff != "" {
		t.Error(diff)
	}
}

func TestATaskThatMayWaitForAPersonIsRefusedBeforeAnythingStarts(t *testing.T) {
	t.Parallel()
	for name, workflow := range map[string]string{
		"on a condition":                    asks,
		"on one of two":                     strings.Replace(asks, "' && '", "' || '", 1),
		"always":                            strings.Replace(asks, `, when: "'{{workflow.parameters.mode}}' == 'slow' && '{{tasks.a.outputs.parameters.value}}' == 'yes'"`, "", 1),
		"on a condition that is only known": strings.Replace(asks, `'{{workflow.parameters.mode}}' == 'slow' && `, "", 1),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newBench(t, workflow+step("work", ""), map[string]string{"work": "true"})
			w, err := localrun.Load(b.file)
			if err != nil {
				t.Fatal(err)
			}
			if err := w.Set("mode", "slow"); err != nil {
				t.Fatal(err)
			}
			_, err = w.Run(t.Context(), b.options)
			if err == nil || !strings.Contains(err.Error(), `task "ask" waits for a person, which insitu run cannot`) || len(b.events) > 0 {
				t.Errorf("error %v, events %v", err, b.events)
			}
		})
	}
}

func TestWhatOnlyAClusterHasIsPassedOver(t *testing.T) {
	t.Parallel()
	b := newBench(t, strings.Replace(head, "entrypoint: main", `entrypoint: main
  podGC: {strategy: OnPodSuccess, deleteDelayDuration: 600s}
  synchronization: {mutexes: [{name: "tenant-{{workflow.parameters.text}}"}]}
  workflowMetadata: {annotations: {a: "{{workflow.parameters.text}}"}}`, 1)+`
    - name: main
      inputs: {artifacts: [{name: app, optional: true}]}
      dag:
        tasks:
          - name: a
            template: work
            arguments:
              artifacts: [{name: app, from: "{{inputs.artifacts.app}}", optional: true}]
              parameters: [{name: labels, value: "{{workflow.labels.json}}"}]
    - name: work
      metadata: {labels: {a: b}}
      inputs:
        parameters: [{name: labels}]
        artifacts: [{name: app, path: /app, optional: true}]
      outputs: {parameters: [{name: value, valueFrom: {path: /tmp/outputs/value}}]}
      synchronization: {mutexes: [{name: x}]}
      podSpecPatch: |
        {"containers": [{"name": "main", "env": [{"name": "N", "value": "{{pod.name}}"}]}]}
      metrics:
        prometheus:
          - name: m
            help: h
            when: "'{{status}}' == 'Succeeded'"
            labels: [{key: k, value: "{{inputs.parameters.labels}}"}]
            gauge: {value: "{{outputs.parameters.value}}"}
      container:
        command: [work]
        env:
          - {name: OUT, value: /tmp/outputs}
          - {name: LABELS, value: "{{inputs.parameters.labels}}"}
          - {name: ETC, value: /etc/hosts}
`, map[string]string{"work": `test "$ETC" = /etc/hosts; echo "$LABELS" > $OUT/value`})
	if diff := cmp.Diff([]string{"a Succeeded 0 value={}"}, summary(b.run(t, t.Context(), nil))); diff != "" {
		t.Error(diff)
	}
}
