"""Training on ids as a stream of events; independent of files and of the terminal."""
