"""The demo: a rendered street, a per-frame network and its video twin, trained and compared."""

from vidseg.demo.result import Demo, Run
from vidseg.demo.run import run_demo

__all__ = ["Demo", "Run", "run_demo"]
