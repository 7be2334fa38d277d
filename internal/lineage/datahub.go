package lineage

import (
	"bytes"
	"crypto/md5"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

const (
	fabric       = "PROD"
	orchestrator = "argo"
	someone      = "urn:li:corpuser:unknown" // required stamps name somebody
	// viewURN is the same for every run, so that it is one view.
	viewURN = "urn:li:dataHubView:insitu-servicebinding-sources"
)

// proposal is one aspect of one entity. A later one of the same aspect replaces it.
type proposal struct {
	EntityType string `json:"entityType"`
	EntityURN  string `json:"entityUrn"`
	ChangeType string `json:"changeType"`
	AspectName string `json:"aspectName"`
	Aspect     aspect `json:"aspect"`
}

// aspect is the form of a metadata file, where the value is JSON; servers take it as a text, see batchOf.
type aspect struct {
	JSON json.RawMessage `json:"json"`
}

// key tells the aspects apart. Those of a time series are kept once, the run's events once a status.
func (p proposal) key() string {
	status := ""
	if p.AspectName == "dataProcessInstanceRunEvent" {
		var event struct{ Status string }
		_ = json.Unmarshal(p.Aspect.JSON, &event) // one that says none is of its own kind
		status = event.Status
	}
	return p.EntityURN + " " + p.AspectName + " " + status
}

// drafts collects the proposals of one report, each aspect once.
type drafts struct {
	list []proposal
	seen map[string]bool
}

func (d *drafts) add(entity, urn, name string, value any) {
	text, err := encode(value)
	if err != nil { // texts, numbers and lists of them
		panic(err)
	}
	p := proposal{EntityType: entity, EntityURN: urn, ChangeType: "UPSERT", AspectName: name, Aspect: aspect{text}}
	if !d.seen[p.key()] {
		d.seen[p.key()] = true
		d.list = append(d.list, p)
	}
}

// encode is json.Marshal with < and & as they are, as in DataHub's own files.
func encode(value any) ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	err := e.Encode(value)
	return bytes.TrimSpace(b.Bytes()), err
}

// batchOf is what the REST endpoint takes.
func batchOf(list []proposal) ([]byte, error) {
	var all []object
	for _, p := range list {
		all = append(all, object{"entityType": p.EntityType, "entityUrn": p.EntityURN, "changeType": p.ChangeType, "aspectName": p.AspectName,
			"aspect": object{"value": string(p.Aspect.JSON), "contentType": "application/json"}})
	}
	return encode(object{"proposals": all, "async": "false"})
}

// maxFile is how large a file of proposals may become, in bytes.
const maxFile = 256 << 20

// mergeProposals makes the file hold the list, too: what is new is added, what was there is replaced where it stands.
// The file is written anew beside itself, so that a step that is killed leaves the old one or the new one.
func mergeProposals(f *os.File, list []proposal) error {
	text, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return err
	}
	if len(text) > maxFile {
		return fmt.Errorf("%s: larger than %d bytes, expected the proposals of some runs: move it away", f.Name(), maxFile)
	}
	var all []proposal
	if len(bytes.TrimSpace(text)) > 0 {
		if err := json.Unmarshal(text, &all); err != nil {
			return fmt.Errorf("%s: expected a JSON list of metadata change proposals: %w", f.Name(), err)
		}
	}
	at := map[string]int{}
	for i, p := range all {
		at[p.key()] = i
	}
	for _, p := range list {
		i, ok := at[p.key()]
		if !ok {
			i = len(all)
			at[p.key()] = i
			all = append(all, p)
		}
		all[i] = p
	}
	var b bytes.Buffer
	for i, p := range all {
		line, err := encode(p)
		if err != nil {
			return err
		}
		b.WriteString(map[bool]string{true: "[\n", false: ",\n"}[i == 0])
		b.Write(line)
	}
	b.WriteString("\n]\n")
	temp, err := os.CreateTemp(filepath.Dir(f.Name()), "."+filepath.Base(f.Name())+".*")
	if err != nil {
		return err
	}
	_, err = temp.Write(b.Bytes())
	if err = errors.Join(err, temp.Chmod(0o644), temp.Close()); err == nil {
		err = os.Rename(temp.Name(), f.Name())
	}
	if err != nil {
		os.Remove(temp.Name())
	}
	return err
}

// proposals say the run as DataHub's aspects.
func proposals(r Run) []proposal {
	d := &drafts{seen: map[string]bool{}}
	flow, job, instance := d.pipeline(r)
	d.platforms()
	d.view()
	for _, a := range append(append([]Asset{}, r.Reads...), r.Writes...) {
		switch a := a.(type) {
		case Dataset:
			d.dataset(a, r)
		case Model:
			d.model(a, job)
		}
	}
	inputs, outputs := urns(r.Reads), urns(r.Writes)
	if r.State == Complete { // a run that failed says nothing of the job
		d.add("dataJob", job, "dataJobInputOutput", object{"inputDatasets": only("dataset", inputs), "outputDatasets": only("dataset", outputs)})
	}
	if r.State != Start {
		d.add("dataProcessInstance", instance, "dataProcessInstanceInput", object{"inputs": inputs, "inputEdges": edges(inputs)})
		d.add("dataProcessInstance", instance, "dataProcessInstanceOutput", object{"outputs": outputs, "outputEdges": edges(outputs)})
	}
	d.events(r, flow, instance)
	return d.list
}

// pipeline describes the flow, the job in it and this run of it.
func (d *drafts) pipeline(r Run) (flow, job, instance string) {
	id := escape(r.Namespace + "." + r.Pipeline)
	flow = "urn:li:dataFlow:(" + orchestrator + "," + id + "," + fabric + ")"
	job = "urn:li:dataJob:(" + flow + "," + escape(r.Step) + ")"
	instance = "urn:li:dataProcessInstance:" + r.ID
	d.add("dataFlow", flow, "dataFlowInfo", object{"name": r.Pipeline, "description": "Insitu: trains, gates and serves a model in the database.",
		"customProperties": map[string]string{"namespace": r.Namespace}})
	d.add("dataJob", job, "dataJobInfo", object{"name": r.Step, "description": r.Summary, "type": object{"string": "COMMAND"}, "flowUrn": flow, "customProperties": map[string]string{}})
	return flow, job, instance
}

// events describe the instance and how far it is.
func (d *drafts) events(r Run, flow, instance string) {
	properties := map[string]string{"version": orDefault(r.Version, "unknown")}
	for name, value := range r.Settings {
		properties["setting."+name] = value
	}
	for name, value := range r.Outputs {
		properties["output."+name] = value
	}
	if r.Error != "" {
		properties["error"] = r.Error
	}
	relations := object{"parentTemplate": "urn:li:dataJob:(" + flow + "," + escape(r.Step) + ")", "upstreamInstances": []string{}}
	name := r.Step
	if id := r.Workflow.id(); id != "" {
		whole := "urn:li:dataProcessInstance:" + id
		name = r.Workflow.Name + " " + r.Step
		properties["workflow"] = r.Workflow.Name
		relations["parentInstance"] = whole
		d.add("dataProcessInstance", whole, "dataProcessInstanceProperties", object{"name": r.Workflow.Name, "type": "BATCH_SCHEDULED", "created": stamp(0),
			"customProperties": map[string]string{"uid": r.Workflow.UID}})
		d.add("dataProcessInstance", whole, "dataProcessInstanceRelationships", object{"parentTemplate": flow, "upstreamInstances": []string{}})
	}
	d.add("dataProcessInstance", instance, "dataProcessInstanceProperties", object{"name": name, "type": "BATCH_SCHEDULED", "created": stamp(r.Started.UnixMilli()), "customProperties": properties})
	d.add("dataProcessInstance", instance, "dataProcessInstanceRelationships", relations)
	event := object{"timestampMillis": r.Started.UnixMilli(), "status": "STARTED"}
	if r.State != Start {
		result := map[State]string{Complete: "SUCCESS", Fail: "FAILURE"}[r.State]
		event = object{"timestampMillis": r.Ended.UnixMilli(), "status": "COMPLETE", "durationMillis": r.Ended.Sub(r.Started).Milliseconds(),
			"result": object{"type": result, "nativeResultType": "insitu"}}
	}
	event["partitionSpec"] = object{"partition": "FULL_TABLE_SNAPSHOT", "type": "FULL_TABLE"}
	d.add("dataProcessInstance", instance, "dataProcessInstanceRunEvent", event)
}

// platforms describes those that DataHub may not know.
func (d *drafts) platforms() {
	for _, p := range []struct{ id, name, kind, delimiter string }{{Greenplum, "Greenplum", "RELATIONAL_DB", "."}, {orchestrator, "Argo Workflows", "OTHERS", "."}} {
		d.add("dataPlatform", platform(p.id), "dataPlatformInfo", object{"name": p.id, "displayName": p.name, "type": p.kind, "datasetNameDelimiter": p.delimiter})
	}
}

// view is what the users of the pipeline search in: the databases behind service bindings.
func (d *drafts) view() {
	var tags []string
	for _, kind := range []string{Greenplum, Postgres} {
		tags = append(tags, tag("servicebinding:type:"+kind))
	}
	d.add("dataHubView", viewURN, "dataHubViewInfo", object{
		"name": "ServiceBinding Sources", "description": "The databases that Insitu reaches through service bindings, and their tables.", "type": "GLOBAL",
		"definition": object{"entityTypes": []string{"container", "dataset"},
			"filter": object{"or": []object{{"and": []object{{"field": "tags", "condition": "EQUAL", "negated": false, "values": tags}}}}}},
		"created": stamp(0), "lastModified": stamp(0),
	})
}

// tags are those of the database and all that is in it.
func (db Database) tags() []string {
	var tags []string
	if db.BindingType != "" {
		tags = append(tags, "servicebinding:type:"+db.BindingType)
	}
	if db.BindingProvider != "" {
		tags = append(tags, "servicebinding:provider:"+db.BindingProvider)
	}
	return append(tags, db.Role)
}

func (d *drafts) tagged(entity, urn string, db Database) {
	var list []object
	for _, name := range db.tags() {
		d.add("tag", tag(name), "tagProperties", object{"name": name, "description": describeTag(name)})
		list = append(list, object{"tag": tag(name)})
	}
	d.add(entity, urn, "globalTags", object{"tags": list})
}

func describeTag(name string) string {
	switch key, value, _ := cutLast(name); key {
	case "servicebinding:type":
		return "Reached through a service binding of the type " + value + "; insitu catalog resolve finds it."
	case "servicebinding:provider":
		return "Reached through a service binding of the provider " + value + "; insitu catalog resolve finds it."
	default:
		return "Of Insitu's " + value + " database."
	}
}

// container describes the database, and the schema in it, whose URN it returns.
// The URNs are those that DataHub's own ingestion makes, with the address as the platform instance.
func (d *drafts) container(db Database, schema string) string {
	bag := map[string]string{"platform": db.Platform, "instance": db.Address, "database": db.Name}
	database := "urn:li:container:" + guid(bag)
	d.add("dataPlatformInstance", platformInstance(db), "dataPlatformInstanceProperties", object{"name": db.Address,
		"description": "Insitu's " + db.Role + " database server.", "customProperties": map[string]string{}})
	properties := maps.Clone(bag)
	properties["role"] = db.Role
	d.add("container", database, "containerProperties", object{"name": db.Name, "description": "Insitu's " + db.Role + " database.", "customProperties": properties})
	d.add("container", database, "subTypes", object{"typeNames": []string{"Database"}})
	d.add("container", database, "dataPlatformInstance", instanceOf(db))
	d.tagged("container", database, db)

	bag["schema"] = schema
	inner := "urn:li:container:" + guid(bag)
	properties = maps.Clone(bag)
	properties["role"] = db.Role
	d.add("container", inner, "containerProperties", object{"name": schema, "description": "The schema of a tenant in Insitu's " + db.Role + " database.", "customProperties": properties})
	d.add("container", inner, "subTypes", object{"typeNames": []string{"Schema"}})
	d.add("container", inner, "dataPlatformInstance", instanceOf(db))
	d.add("container", inner, "container", object{"container": database})
	d.tagged("container", inner, db)
	return inner
}

func (d *drafts) dataset(a Dataset, r Run) {
	urn := datasetURN(a)
	if a.Description != "" {
		properties := map[string]string{}
		maps.Copy(properties, a.Properties)
		if a.SHA256 != "" {
			properties["sha256"] = a.SHA256
		}
		_, name := openLineageName(a)
		if a.Kind != File {
			properties["role"] = a.Database.Role
			name = a.Name
		}
		d.add("dataset", urn, "datasetProperties", object{"name": name, "description": a.Description, "customProperties": properties})
		d.add("dataset", urn, "subTypes", object{"typeNames": []string{string(a.Kind)}})
		if a.Database != nil {
			d.add("dataset", urn, "container", object{"container": d.container(*a.Database, a.Schema)})
			d.add("dataset", urn, "dataPlatformInstance", instanceOf(*a.Database))
			d.tagged("dataset", urn, *a.Database)
		}
	}
	if len(a.Columns) > 0 {
		d.add("dataset", urn, "schemaMetadata", schemaMetadata(a))
	}
	if len(a.From) > 0 {
		var upstreams []object
		for _, from := range a.From {
			d.dataset(from, r)
			upstreams = append(upstreams, object{"dataset": datasetURN(from), "type": "TRANSFORMED", "auditStamp": stamp(0)})
		}
		d.add("dataset", urn, "upstreamLineage", object{"upstreams": upstreams})
	}
	if a.Description != "" && a.Rows > 0 && r.State == Complete {
		profile := object{"timestampMillis": r.Ended.UnixMilli(), "rowCount": a.Rows, "partitionSpec": object{"partition": "FULL_TABLE_SNAPSHOT", "type": "FULL_TABLE"}}
		if a.Bytes > 0 {
			profile["sizeInBytes"] = a.Bytes
		}
		if len(a.Columns) > 0 {
			profile["columnCount"] = len(a.Columns)
		}
		d.add("dataset", urn, "datasetProfile", profile)
	}
}

func schemaMetadata(a Dataset) object {
	var fields []object
	for _, c := range a.Columns {
		field := object{"fieldPath": c.Name, "nativeDataType": c.Type, "type": object{"type": object{"com.linkedin.schema." + dataType(c.Type): object{}}}, "nullable": false}
		if c.Description != "" {
			field["description"] = c.Description
		}
		fields = append(fields, field)
	}
	name, of := a.Name, platformOf(a)
	if a.Kind == File {
		_, name = openLineageName(a)
	}
	return object{"schemaName": name, "platform": platform(of), "version": 0, "hash": "", "platformSchema": object{"com.linkedin.schema.OtherSchema": object{"rawSchema": ""}}, "fields": fields}
}

// dataType is DataHub's word for a type of SQL or of a packed value.
func dataType(native string) string {
	switch native {
	case "int", "bigint", "uint8", "float32":
		return "NumberType"
	case "bytea", "image":
		return "BytesType"
	case "json":
		return "RecordType"
	case "timestamptz":
		return "TimeType"
	}
	return "StringType"
}

// model describes what a step says of a version; a mere reference adds nothing.
func (d *drafts) model(m Model, job string) {
	urn := modelURN(m)
	if m.SHA256 != "" {
		group := "urn:li:mlModelGroup:(" + platform("mlflow") + "," + escape(m.Name) + "," + fabric + ")"
		d.add("mlModelGroup", group, "mlModelGroupProperties", object{"name": m.Name, "description": "Registered model of MLflow at " + m.Registry + ".", "customProperties": map[string]string{}})
		properties := map[string]string{}
		maps.Copy(properties, m.Properties)
		properties["sha256"] = m.SHA256
		d.add("mlModel", urn, "mlModelProperties", object{
			"name": m.Name + " version " + strconv.Itoa(m.Version), "description": "Trained in the database and exported as ONNX.", "version": object{"versionTag": strconv.Itoa(m.Version)},
			"type": "ONNX", "customProperties": properties, "groups": []string{group}, "trainingJobs": []string{job},
			"hyperParams": pairs(m.Parameters), "trainingMetrics": pairs(m.Metrics),
		})
	}
	for _, of := range []struct {
		aspect, field string
		list          []Dataset
	}{{"mlModelTrainingData", "trainingData", m.TrainedOn}, {"mlModelEvaluationData", "evaluationData", m.EvaluatedOn}} {
		var data []object
		for _, set := range of.list {
			data = append(data, object{"dataset": datasetURN(set)})
		}
		if data != nil {
			d.add("mlModel", urn, of.aspect, object{of.field: data})
		}
	}
}

func pairs(m map[string]string) []object {
	list := []object{}
	for _, name := range keys(m) {
		list = append(list, object{"name": name, "value": m[name]})
	}
	return list
}

func urns(assets []Asset) []string {
	list := []string{}
	for _, a := range assets {
		switch a := a.(type) {
		case Dataset:
			list = append(list, datasetURN(a))
		case Model:
			list = append(list, modelURN(a))
		}
	}
	return list
}

// only are the URNs of one type.
func only(entity string, list []string) []string {
	out := []string{}
	for _, urn := range list {
		if strings.HasPrefix(urn, "urn:li:"+entity+":") {
			out = append(out, urn)
		}
	}
	return out
}

func edges(list []string) []object {
	out := []object{}
	for _, urn := range list {
		out = append(out, object{"destinationUrn": urn})
	}
	return out
}

// modelURN is the one that DataHub's own ingestion from MLflow makes.
func modelURN(m Model) string {
	return "urn:li:mlModel:(" + platform("mlflow") + "," + escape(m.Name) + "_" + strconv.Itoa(m.Version) + "," + fabric + ")"
}

func datasetURN(a Dataset) string {
	var name string
	if db := a.Database; db != nil {
		name = db.Address + "." + db.Name + "." + a.Schema + "." + a.Name
	} else if u := location(a.Location); u.Scheme == "file" {
		name = u.Path
	} else {
		name = u.Host + u.Path
	}
	return "urn:li:dataset:(" + platform(platformOf(a)) + "," + escape(name) + "," + fabric + ")"
}

func platformOf(a Dataset) string {
	if a.Database != nil {
		return a.Database.Platform
	}
	u := location(a.Location)
	if u.Scheme == "https" {
		return "http"
	}
	return u.Scheme
}

func platform(id string) string { return "urn:li:dataPlatform:" + id }

func tag(name string) string { return "urn:li:tag:" + escape(name) }

func platformInstance(db Database) string {
	return "urn:li:dataPlatformInstance:(" + platform(db.Platform) + "," + escape(db.Address) + ")"
}

func instanceOf(db Database) object {
	return object{"platform": platform(db.Platform), "instance": platformInstance(db)}
}

func stamp(millis int64) object { return object{"time": millis, "actor": someone} }

// escape keeps a name from ending the part of the URN it stands in, as DataHub's own clients do.
func escape(name string) string {
	return strings.NewReplacer("(", "%28", ")", "%29", ",", "%2C", "␟", "%E2%90%9F").Replace(name)
}

// guid is DataHub's id of a container.
func guid(bag map[string]string) string {
	text, err := encode(bag)
	if err != nil { // a map of texts
		panic(err)
	}
	sum := md5.Sum(text)
	return hex.EncodeToString(sum[:])
}
