package lineage

import (
	"encoding/json"
	"net/url"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"
)

// producer is who says it all; the schemas of Insitu's own facets lie below it.
const (
	producer       = "https://github.com/insitu-ml/insitu"
	ownFacets      = producer + "/blob/main/internal/lineage/facets/"
	eventSchema    = "https://openlineage.io/spec/2-0-2/OpenLineage.json#/$defs/RunEvent"
	standardFacets = "https://openlineage.io/spec/facets/"
)

// object is one of JSON.
type object = map[string]any

// standard is a facet of OpenLineage's own; schema is its file with its version in front, and the definition in it.
func standard(version, name string, fields object) object {
	return facet(standardFacets+version+"/"+name+".json#/$defs/"+name, fields)
}

func facet(schema string, fields object) object {
	fields["_producer"], fields["_schemaURL"] = producer, schema
	return fields
}

// openLineage is the run as one event.
func openLineage(r Run) ([]byte, error) {
	at := r.Started
	if !r.Ended.IsZero() {
		at = r.Ended
	}
	event := object{
		"eventType": r.State, "eventTime": at.UTC().Format(time.RFC3339Nano), "producer": producer, "schemaURL": eventSchema,
		"run": object{"runId": r.ID, "facets": runFacets(r)},
		"job": object{"namespace": r.Namespace, "name": r.Pipeline + "." + r.Step, "facets": object{
			"jobType":       standard("2-0-4", "JobTypeJobFacet", object{"processingType": "BATCH", "integration": "INSITU", "jobType": "TASK"}),
			"documentation": standard("1-1-0", "DocumentationJobFacet", object{"description": r.Summary}),
		}},
		"inputs": []object{}, "outputs": []object{},
	}
	for _, a := range r.Reads {
		event["inputs"] = append(event["inputs"].([]object), openLineageDataset(a, "inputFacets", "inputStatistics", "1-0-0", "InputStatisticsInputDatasetFacet"))
	}
	for _, a := range r.Writes {
		event["outputs"] = append(event["outputs"].([]object), openLineageDataset(a, "outputFacets", "outputStatistics", "1-0-2", "OutputStatisticsOutputDatasetFacet"))
	}
	return json.Marshal(event)
}

func runFacets(r Run) object {
	facets := object{
		"processing_engine": standard("1-1-1", "ProcessingEngineRunFacet", object{"name": "insitu", "version": orDefault(r.Version, "unknown")}),
	}
	if id := r.Workflow.id(); id != "" {
		facets["parent"] = standard("1-2-0", "ParentRunFacet", object{
			"run": object{"runId": id}, "job": object{"namespace": r.Namespace, "name": r.Pipeline},
			"root": object{"run": object{"runId": id}, "job": object{"namespace": r.Namespace, "name": r.Pipeline}},
		})
	}
	if r.State == Fail {
		facets["errorMessage"] = standard("1-0-1", "ErrorMessageRunFacet", object{"message": r.Error, "programmingLanguage": "GO"})
	}
	if len(r.Settings) > 0 {
		var list []object
		for _, name := range keys(r.Settings) {
			list = append(list, object{"key": name, "value": r.Settings[name]})
		}
		facets["executionParameters"] = standard("1-0-0", "ExecutionParametersRunFacet", object{"parameters": list})
	}
	if len(r.Outputs) > 0 {
		facets["insitu_outputs"] = facet(ownFacets+"InsituOutputsRunFacet.json#/$defs/InsituOutputsRunFacet", object{"outputs": r.Outputs})
	}
	return facets
}

// openLineageDataset describes an asset; statistics go to facets of their own, which differ for inputs and outputs.
func openLineageDataset(a Asset, own, name, version, schema string) object {
	namespace, id := openLineageName(a)
	facets, statistics := object{}, object{}
	digest := ""
	switch a := a.(type) {
	case Dataset:
		digest = a.SHA256
		facets["datasetType"] = standard("1-0-1", "DatasetTypeDatasetFacet", object{"datasetType": strings.ToUpper(string(a.Kind))})
		if a.Description != "" {
			facets["documentation"] = standard("1-1-0", "DocumentationDatasetFacet", object{"description": a.Description})
		}
		if len(a.Columns) > 0 {
			var fields []object
			for i, c := range a.Columns {
				field := object{"name": c.Name, "type": c.Type, "ordinal_position": i + 1}
				if c.Description != "" {
					field["description"] = c.Description
				}
				fields = append(fields, field)
			}
			facets["schema"] = standard("1-2-0", "SchemaDatasetFacet", object{"fields": fields})
		}
		if db := a.Database; db != nil {
			facets["dataSource"] = standard("1-0-1", "DatasourceDatasetFacet", object{"name": namespace, "uri": namespace})
			var tags []object
			for _, t := range db.tags() {
				key, value, found := cutLast(t)
				if !found {
					key, value = "database", t
				}
				tags = append(tags, object{"key": key, "value": value, "source": "INSITU"})
			}
			facets["tags"] = standard("1-0-0", "TagsDatasetFacet", object{"tags": tags})
		}
		if a.Rows > 0 {
			statistics["rowCount"] = a.Rows
		}
		if a.Bytes > 0 {
			statistics["size"] = a.Bytes
		}
	case Model:
		digest = a.SHA256
		facets["datasetType"] = standard("1-0-1", "DatasetTypeDatasetFacet", object{"datasetType": "MODEL"})
		facets["version"] = standard("1-0-1", "DatasetVersionDatasetFacet", object{"datasetVersion": strconv.Itoa(a.Version)})
	}
	if digest != "" {
		facets["insitu_digest"] = facet(ownFacets+"InsituDigestDatasetFacet.json#/$defs/InsituDigestDatasetFacet", object{"algorithm": "SHA-256", "value": digest})
	}
	out := object{"namespace": namespace, "name": id, "facets": facets}
	if len(statistics) > 0 {
		out[own] = object{name: standard(version, schema, statistics)}
	}
	return out
}

// openLineageName follows OpenLineage's naming conventions; there is none for Greenplum and for models.
func openLineageName(a Asset) (namespace, name string) {
	switch a := a.(type) {
	case Model:
		host := a.Registry
		if u, err := url.Parse(a.Registry); err == nil && u.Host != "" {
			host = u.Host
		}
		return "mlflow://" + host, a.Name
	case Dataset:
		if a.Database != nil {
			return a.Database.Platform + "://" + a.Database.Address, a.Database.Name + "." + a.Schema + "." + a.Name
		}
		u := location(a.Location)
		if u.Scheme == "file" {
			return "file", u.Path
		}
		return u.Scheme + "://" + u.Host, strings.TrimPrefix(u.Path, "/")
	}
	return "", ""
}

// location reads where a file is: a URL or a path. Queries, which may be signatures, are no part of it.
func location(text string) url.URL {
	if u, err := url.Parse(text); err == nil && len(u.Scheme) > 1 && u.Opaque == "" && (u.Host != "" || u.Scheme == "file") {
		return url.URL{Scheme: strings.ToLower(u.Scheme), Host: u.Host, Path: path.Clean("/" + u.Path)}
	}
	return url.URL{Scheme: "file", Path: path.Clean(text)}
}

func cutLast(text string) (before, after string, found bool) {
	i := strings.LastIndex(text, ":")
	if i < 0 {
		return "", text, false
	}
	return text[:i], text[i+1:], true
}

// keys are the names in their order.
func keys(m map[string]string) []string {
	names := make([]string, 0, len(m))
	for name := range m {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}
