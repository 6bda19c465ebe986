"""The benchmark: what p11host costs beside the direct way, and beside p11-kit."""

from p11host.bench.command import bench

__all__ = ["bench"]
