"""The demo: a rendered street, a per-frame network and its video twin, trained and compared."""

from vidseg.demo.run import Demo, Run, run_demo

__all__ = ["Demo", "Run", "run_demo"]
