package localrun

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	wfv1 "github.com/argoproj/argo-workflows/v3/pkg/apis/workflow/v1alpha1"
)

// expand makes one work of each item of the task's list (withParam), named as Argo names it: train(0:rate:0.1).
// The list may be empty. Argo's own code for this is its controller's alone.
func expand(task *wfv1.DAGTask, scope map[string]any) ([]work, error) {
	list, err := substitute(&wfv1.DAGTask{WithParam: task.WithParam}, scope)
	if err != nil {
		return nil, err
	}
	var items []wfv1.Item
	if err := json.Unmarshal([]byte(list.WithParam), &items); err != nil {
		return nil, fmt.Errorf("withParam is no JSON list: %q: %w", list.WithParam, err)
	}
	one := task.DeepCopy()
	one.WithParam = ""
	works := make([]work, len(items))
	for i, item := range items {
		values, description, err := itemScope(item)
		if err != nil {
			return nil, fmt.Errorf("withParam: item %d: %w", i, err)
		}
		maps.Copy(values, scope)
		replaced, err := substitute(one, values)
		if err != nil {
			return nil, fmt.Errorf("item %d: %w", i, err)
		}
		works[i] = work{name: fmt.Sprintf("%s(%d:%s)", task.Name, i, strings.NewReplacer("(", "", ")", "").Replace(description)), args: replaced.Arguments}
	}
	return works, nil
}

// itemScope is what {{item}} and {{item.x}} stand for, and the item in a task's name.
func itemScope(item wfv1.Item) (map[string]any, string, error) {
	switch item.GetType() {
	case wfv1.Number, wfv1.Bool:
		return map[string]any{"item": item.String()}, item.String(), nil
	case wfv1.String:
		return map[string]any{"item": item.GetStrVal()}, item.String(), nil
	case wfv1.Map:
		members := item.GetMapVal()
		text, err := json.Marshal(members)
		if err != nil {
			return nil, "", err
		}
		scope := map[string]any{"item": string(text)}
		var words []string
		for key, value := range members {
			scope["item."+key] = value.String()
			words = append(words, key+":"+value.String())
		}
		slices.Sort(words)
		return scope, strings.Join(words, ","), nil
	}
	return nil, "", fmt.Errorf("%s: expected a text, a number, a truth value or an object", item.String())
}

// loop is a task that was expanded, while it runs.
type loop struct {
	ended []node // by item
	left  int    // items that have not ended
	began time.Time
}

// group is the result of a task that was expanded: for each output a JSON list of what the items that succeeded gave,
// and all of them as one list of objects. Lists hold texts, unless every value is a JSON object or list.
func group(items []node) (n node, all string) {
	n = node{status: Succeeded, outputs: map[string]any{}}
	lists, objects := map[string][]string{}, []map[string]string{}
	for _, item := range items {
		switch item.status {
		case Failed, Errored:
			n.status = item.status
		case Omitted:
			if n.status == Succeeded {
				n.status = Omitted
			}
		case Succeeded:
			object := stringOutputs(item.outputs)
			for name, value := range object {
				lists[name] = append(lists[name], value)
			}
			objects = append(objects, object)
		}
	}
	for name, values := range lists {
		n.outputs[name] = jsonList(values)
	}
	return n, mustJSON(objects)
}

func jsonList(values []string) string {
	parsed := make([]any, len(values))
	for i, text := range values {
		if json.Unmarshal([]byte(text), &parsed[i]) != nil {
			return mustJSON(values)
		}
		switch parsed[i].(type) {
		case []any, map[string]any:
		default:
			return mustJSON(values)
		}
	}
	return mustJSON(parsed)
}

// mustJSON writes texts, and what was JSON before.
func mustJSON(v any) string {
	text, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return string(text)
}
