package localrun

import (
	"fmt"
	"reflect"
	"strconv"
	"strings"

	wfv1 "github.com/argoproj/argo-workflows/v3/pkg/apis/workflow/v1alpha1"
	corev1 "k8s.io/api/core/v1"
)

// support lists the fields of Argo's types that localrun may meet: those it acts on, and those that only
// say where, when and how pods run, which have no meaning for local processes. Any other field that is set is
// refused: a new Argo feature is refused until somebody adds it here and to the code.
func support() map[reflect.Type]map[string]bool {
	fields := func(acted, clusterOnly string) map[string]bool {
		out := map[string]bool{}
		for _, name := range strings.Fields(acted + " " + clusterOnly) {
			out[name] = true
		}
		return out
	}
	const pods = "ServiceAccountName AutomountServiceAccountToken Executor NodeSelector Affinity Tolerations SchedulerName SecurityContext PodSpecPatch Metrics Synchronization"
	return map[reflect.Type]map[string]bool{
		reflect.TypeFor[wfv1.WorkflowTemplate](): fields("TypeMeta ObjectMeta Spec", ""),
		reflect.TypeFor[wfv1.WorkflowSpec](): fields("Templates Entrypoint OnExit Arguments ActiveDeadlineSeconds",
			pods+" PodGC TTLStrategy ArtifactGC ArchiveLogs PodMetadata WorkflowMetadata ImagePullSecrets Priority PodPriorityClassName PodDisruptionBudget ArtifactRepositoryRef"),
		reflect.TypeFor[wfv1.Template](): fields("Name Inputs Outputs DAG Container Suspend Volumes RetryStrategy ActiveDeadlineSeconds Parallelism",
			pods+" Metadata Annotations PriorityClassName PodSpecPatch"),
		reflect.TypeFor[wfv1.DAGTemplate]():      fields("Tasks FailFast", ""),
		reflect.TypeFor[wfv1.DAGTask]():          fields("Name Template TemplateRef Arguments Depends Dependencies When WithParam", ""),
		reflect.TypeFor[wfv1.TemplateRef]():      fields("Name Template", ""),
		reflect.TypeFor[wfv1.Arguments]():        fields("Parameters Artifacts", ""),
		reflect.TypeFor[wfv1.Inputs]():           fields("Parameters Artifacts", ""),
		reflect.TypeFor[wfv1.Outputs]():          fields("Parameters Artifacts", ""),
		reflect.TypeFor[wfv1.Parameter]():        fields("Name Description Default Value ValueFrom Enum", ""),
		reflect.TypeFor[wfv1.ValueFrom]():        fields("Path Parameter Supplied Default", ""),
		reflect.TypeFor[wfv1.Artifact]():         fields("Name Path From Optional Archive ArtifactLocation", ""),
		reflect.TypeFor[wfv1.ArtifactLocation](): fields("", ""),
		reflect.TypeFor[wfv1.ArchiveStrategy]():  fields("None", ""),
		reflect.TypeFor[wfv1.RetryStrategy]():    fields("Limit RetryPolicy Backoff Expression", "Affinity"),
		reflect.TypeFor[wfv1.Backoff]():          fields("Duration Factor MaxDuration Cap", ""),
		reflect.TypeFor[corev1.Container](): fields("Name Command Args Env VolumeMounts",
			"Image ImagePullPolicy Resources SecurityContext TerminationMessagePath TerminationMessagePolicy EnvFrom"),
		// Variables of a cluster's Secret, which need not be there; Options.Env has those of this machine.
		reflect.TypeFor[corev1.EnvFromSource]():   fields("SecretRef", ""),
		reflect.TypeFor[corev1.SecretEnvSource](): fields("LocalObjectReference Optional", ""),
		reflect.TypeFor[corev1.EnvVar]():          fields("Name Value", ""),
		reflect.TypeFor[corev1.VolumeMount]():     fields("Name MountPath ReadOnly", ""),
		reflect.TypeFor[corev1.Volume]():          fields("Name VolumeSource", ""),
		reflect.TypeFor[corev1.VolumeSource]():    fields("EmptyDir Secret", ""),
	}
}

// unsupported names every field of v that is set and that localrun would not honour.
func unsupported(v any) []string {
	var out []string
	rules := support()
	var walk func(v reflect.Value, path string)
	walk = func(v reflect.Value, path string) {
		switch v.Kind() {
		case reflect.Pointer:
			if !v.IsNil() {
				walk(v.Elem(), path)
			}
		case reflect.Slice:
			for i := range v.Len() {
				walk(v.Index(i), path+"["+itemName(v.Index(i), i)+"]")
			}
		case reflect.Struct:
			allowed := rules[v.Type()]
			if allowed == nil {
				return
			}
			for i := range v.NumField() {
				field := v.Type().Field(i)
				if v.Field(i).IsZero() {
					continue
				}
				where := path
				if name := jsonName(field); name != "" {
					where = strings.TrimPrefix(path+"."+name, ".")
				}
				if allowed[field.Name] {
					walk(v.Field(i), where)
				} else {
					out = append(out, where)
				}
			}
		}
	}
	walk(reflect.ValueOf(v), "")
	return out
}

func itemName(v reflect.Value, i int) string {
	if v.Kind() == reflect.Struct {
		if name := v.FieldByName("Name"); name.IsValid() && name.Kind() == reflect.String && name.String() != "" {
			return name.String()
		}
	}
	return strconv.Itoa(i)
}

func jsonName(f reflect.StructField) string {
	name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
	return name
}

func unsupportedError(where, feature string) error {
	return fmt.Errorf("%s: insitu run does not support %q; submit the workflow to Argo instead", where, feature)
}
