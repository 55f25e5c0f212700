"""Execute notebooks in place and keep what belongs in the repository: `python book/execute.py NOTEBOOK …`.

Widget state, timestamps and the version of the interpreter go, because they differ from run to run. A
notebook that fails stays as it was.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient

KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}


def execute(path: Path) -> None:
    """Execute one notebook in its own folder and overwrite it with the result."""
    notebook = nbformat.read(path, as_version=4)
    notebook.metadata.kernelspec = KERNEL
    client = NotebookClient(
        notebook,
        timeout=1800,
        kernel_name="python3",
        record_timing=False,
        store_widget_state=True,
        resources={"metadata": {"path": str(path.parent)}},
    )
    started = time.perf_counter()
    client.execute()
    # Whole minutes, which stay the same from run to run; the page says them under its title.
    notebook.metadata["minutes"] = max(1, round((time.perf_counter() - started) / 60))
    notebook.metadata.pop("widgets", None)
    notebook.metadata.pop("papermill", None)
    notebook.metadata.language_info = {"name": "python"}
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
        cell.metadata.pop("papermill", None)
        if cell.cell_type == "code":
            cell.outputs = merge_streams(cell.outputs)
    nbformat.write(notebook, path)


def merge_streams(outputs: list) -> list:
    """Join neighbouring pieces of one stream: how a stream is cut depends on the clock."""
    merged: list = []
    for output in outputs:
        if (
            merged
            and output.output_type == "stream"
            and merged[-1].output_type == "stream"
            and merged[-1].name == output.name
        ):
            merged[-1].text += output.text
        else:
            merged.append(output)
    return merged


if __name__ == "__main__":
    for name in sys.argv[1:]:
        print(f"executing {name}", flush=True)
        execute(Path(name))
