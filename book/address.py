"""Move every link, badge and Colab cell to another repository: `python book/address.py OWNER/NAME`.

`_config.yml` holds the address; whatever repeats it in a tracked text file is rewritten. Standard library only.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def current() -> str:
    """OWNER/NAME as `_config.yml` has it."""
    found = re.search(r"https://github\.com/([\w.-]+/[\w.-]+)", (ROOT / "_config.yml").read_text(encoding="utf-8"))
    if found is None:
        raise SystemExit("_config.yml names no repository: expected `url: https://github.com/OWNER/NAME`.")
    return found[1]


def mentions(address: str) -> dict[Path, str]:
    """The tracked text files that name an address, and what they hold."""
    listed = subprocess.run(["git", "grep", "-lIF", address], cwd=ROOT, capture_output=True, text=True)
    return {ROOT / name: (ROOT / name).read_text(encoding="utf-8") for name in listed.stdout.splitlines()}


def main(words: list[str]) -> None:
    """Rewrite, and say what was."""
    if len(words) != 1 or not re.fullmatch(r"[\w.-]+/[\w.-]+", words[0]):
        raise SystemExit("Name the repository as OWNER/NAME, such as ddtb-lite/ddtb-lite.")
    old, new = current(), words[0]
    files = mentions(old)
    for path, text in files.items():
        path.write_text(text.replace(old, new), encoding="utf-8")
    print(f"{len(files)} files: {old} is now {new}.")


if __name__ == "__main__":
    main(sys.argv[1:])
