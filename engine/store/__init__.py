"""The job store: jobs.db, the truth about every job."""
