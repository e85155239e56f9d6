"""From ids to a trained model, as a stream of events; knows no files and no terminal."""
