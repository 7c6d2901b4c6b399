"""Containers for people without root: engine, launcher, runtime, images, API, client and command line."""

__version__ = "0.1.0"
