package deploytrainingcode

// changelogPath is what databasechangelog.filename says.
const changelogPath = "insitu/training"
