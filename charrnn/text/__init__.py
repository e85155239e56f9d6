"""Raw text to indices; knows no model."""
