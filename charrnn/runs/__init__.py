"""Training runs on a disk: started, resumed, saved, reported."""
