"""A union file system for people without root: layers as tar files with an index, served over the kernel's FUSE
protocol. Stands alone; `rootless` uses the names below and no others."""

from fuse_overlay.directory_server import serve_directory
from fuse_overlay.errors import LayerError
from fuse_overlay.image_server import serve_tree
from fuse_overlay.layers.archive import upper_changes, write_merged, write_upper
from fuse_overlay.layers.emit import TarWriter
from fuse_overlay.layers.entry import Entry
from fuse_overlay.layers.store import (
    Layer,
    LayerWriter,
    Tree,
    index_layer,
    merge_tree,
    open_tree,
    read_layer,
    rebuild_tree,
)
from fuse_overlay.mount import mount_fuse
from fuse_overlay.union_server import DirectoryLayer, UnionOptions, serve_union

__all__ = [
    "DirectoryLayer",
    "Entry",
    "Layer",
    "LayerError",
    "LayerWriter",
    "TarWriter",
    "Tree",
    "UnionOptions",
    "index_layer",
    "merge_tree",
    "mount_fuse",
    "open_tree",
    "read_layer",
    "rebuild_tree",
    "serve_directory",
    "serve_tree",
    "serve_union",
    "upper_changes",
    "write_merged",
    "write_upper",
]
