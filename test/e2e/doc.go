// Package e2e runs the pipelines on a real Kubernetes cluster with Argo Workflows, as users start them:
// with argo, with the requests of Argo's user interface, and with kapp.
//
// `make e2e` runs it on the cluster of KUBECONFIG. One namespace is made for a run, the Helm chart is
// installed in it with its dev services, and all tests share them: each has schemas, a registered model
// and an experiment of its own. What a test believes it asks the databases, the object store and MLflow for,
// not only the workflow's phase.
//
// It does not test what kapp-controller does, nor images that are not the built ones.
package e2e
