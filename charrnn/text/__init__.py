"""Raw text to ids; knows no model."""
