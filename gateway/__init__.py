"""The public HTTP API: queries on what the pipeline stored."""
