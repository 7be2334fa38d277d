package registry

// Tags that train-model gives a model version, and the job's run; the other steps read them.
const (
	TagJob     = "insitu.job"            // data, code, parameters and seed
	TagCode    = "insitu.code-digest"    // SHA-256 of the ML app and its runtime
	TagDataset = "insitu.dataset-digest" // SHA-256 of the data and how it was packed
	TagRows    = "insitu.rows-digest"    // training.Fingerprint of the rows that training read
	TagONNX    = "insitu.onnx-digest"    // SHA-256 of the version's ONNX file
	TagGit     = "git_sha"               // commit of the ML app, if it was given
	// TagTenant is which schema of which database it was trained in (training.Tenant); of a registered model, whose it is.
	TagTenant = "insitu.tenant"
	// TagPrevious, with the alias after it, is the version that held the alias before the promotion; empty for none.
	TagPrevious = "insitu.previous-version."
	// TagLive says what live calls of the inference database spoke for or against the version.
	TagLive = "insitu.live-evidence"
)

// Artifacts of a run, from which deploy-inference-db takes what is served beside the model and what monitoring compares with.
const (
	ArtifactInputs  = "monitoring/inputs.json"  // train-model: training.Profile
	ArtifactMetrics = "evaluation/metrics.json" // evaluate-model: its result, with the evaluation.Metrics of the candidate
	ArtifactReport  = "evaluation/report.html"  // evaluate-model: the same, for people
)
