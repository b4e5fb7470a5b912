"""Following a job's events and log by byte offset."""
