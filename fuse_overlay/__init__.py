"""A union file system for people without root: layers as tar files with an index, served over the kernel's FUSE
protocol. Stands alone; `rootless` uses the names below and no others."""

from fuse_overlay.directory_server import serve_directory
from fuse_overlay.errors import LayerError
from fuse_overlay.image_server import serve_tree
from fuse_overlay.layers.archive import upper_changes, write_merged, write_upper
from fuse_overlay.layers.behind import Behind
from fuse_overlay.layers.emit import TarWriter
from fuse_overlay.layers.entry import Entry, normalise
from fuse_overlay.layers.lazy import LazyContent, contents_in_common, merge_lazy_tree, write_lazy_layer
from fuse_overlay.layers.store import (
    Layer,
    LayerWriter,
    Tree,
    index_layer,
    merge_tree,
    open_tree,
    read_layer,
    rebuild_tree,
    reopen_tree,
)
from fuse_overlay.lazy_server import serve_lazy_tree
from fuse_overlay.mount import mount_fuse
from fuse_overlay.union_server import DirectoryLayer, UnionOptions, serve_union

__all__ = [
    "Behind",
    "DirectoryLayer",
    "Entry",
    "Layer",
    "LayerError",
    "LayerWriter",
    "LazyContent",
    "TarWriter",
    "Tree",
    "UnionOptions",
    "contents_in_common",
    "index_layer",
    "merge_lazy_tree",
    "merge_tree",
    "mount_fuse",
    "normalise",
    "open_tree",
    "read_layer",
    "rebuild_tree",
    "reopen_tree",
    "serve_directory",
    "serve_lazy_tree",
    "serve_tree",
    "serve_union",
    "upper_changes",
    "write_lazy_layer",
    "write_merged",
    "write_upper",
]
