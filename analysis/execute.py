"""Run notebooks from top to bottom and keep what they show, in place.

    python analysis/execute.py                                all notebooks beside this file
    python analysis/execute.py analysis/reward_hacking.ipynb  some of them

What depends on the machine and the moment (times, versions) is left out of the files. A cell that fails ends this with
its error, and its notebook is left as it was.
"""

import argparse
import sys
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}


def execute(path: Path) -> None:
    """Run a notebook in its own folder with the Python that runs this."""
    notebook = nbformat.read(path, as_version=4)
    notebook.metadata = nbformat.from_dict(METADATA)
    client = NotebookClient(
        notebook, timeout=600, record_timing=False, resources={"metadata": {"path": str(path.parent)}}
    )
    client.execute()
    notebook.metadata = nbformat.from_dict(METADATA)
    for cell in notebook.cells:
        cell.metadata.clear()
    nbformat.write(notebook, path)


def main() -> None:
    """The program."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("notebooks", nargs="*", type=Path, help="all of those beside this file where none is given")
    args = parser.parse_args()
    for path in args.notebooks or sorted(Path(__file__).parent.glob("*.ipynb")):
        print(path.name, flush=True)
        try:
            execute(path)
        except CellExecutionError as error:
            sys.exit(f"error: {path}: {error}")


if __name__ == "__main__":
    main()
