"""Synthetic retinal OCT: what the notebooks share. Importing this alone loads nothing heavy."""

__version__ = "0.1.0"
__all__ = ["__version__", "load_generator"]


def __getattr__(name):
    # torch takes seconds to load; whoever only asks for the version should not wait for it
    if name == "load_generator":
        from helpers.generate import load_generator

        return load_generator
    raise AttributeError(f"helpers has no {name!r}")
