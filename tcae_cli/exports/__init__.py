"""Stores in the file formats of trainers that read their own: one file a format."""
