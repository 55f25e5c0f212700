"""The command line: words come in, an exit status goes out; everything that computes is called from other rooms.

`arguments` holds the options of all commands and what some of them stand for, `main` the way in and the commands of a
few lines. Every other command has its module: its help as the first line, its options, and what is printed.
"""

from __future__ import annotations

from .main import main, parser

__all__ = ["main", "parser"]
