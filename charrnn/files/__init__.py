"""Verified files, written durably and by one writer at a time; knows no text and no model."""
