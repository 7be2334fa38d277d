// Package chart tests charts/insitu as users meet it: through helm, with kubeconform and without a cluster.
//
// The tests need what `scripts/install.sh chart` installs, and no network.
package chart
