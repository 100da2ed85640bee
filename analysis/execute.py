"""Run notebooks from top to bottom and save their outputs in place.

    python analysis/execute.py                                all notebooks in analysis/
    python analysis/execute.py analysis/reward_hacking.ipynb  some of them

Data that depend on the machine (times, versions) are not saved. If a cell fails, the script exits with its error and
leaves the notebook unchanged.
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
    """Run a notebook in its own folder with the current Python."""
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
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("notebooks", nargs="*", type=Path, help="notebooks to run (default: all in analysis/)")
    args = parser.parse_args()
    for path in args.notebooks or sorted(Path(__file__).parent.glob("*.ipynb")):
        print(path.name, flush=True)
        try:
            execute(path)
        except CellExecutionError as error:
            sys.exit(f"error: {path}: {error}")


if __name__ == "__main__":
    main()
