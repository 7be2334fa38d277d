// Package binding reads service bindings (servicebinding.io): directories of small files under $SERVICE_BINDING_ROOT.
package binding
