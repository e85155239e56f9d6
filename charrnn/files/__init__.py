"""Files on a disk that can be trusted; knows no text and no model."""
