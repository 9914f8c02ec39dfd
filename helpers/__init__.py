"""Synthetic retinal OCT: what the notebooks share. Importing this alone loads nothing heavy."""

__version__ = "0.1.0"
