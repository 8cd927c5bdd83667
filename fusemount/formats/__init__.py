"""Formats of model files and folders: how each is recognised and which files belong to it."""
