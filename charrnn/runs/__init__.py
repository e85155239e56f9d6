"""Training runs on disk: start, resume, save, report."""
