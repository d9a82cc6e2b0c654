"""Files of the user: read without hanging, written without destroying, named without loss. Standard library only.

Every room may import this package; it imports nothing of ours.
"""

from cytoserve_files.appending import append_line, last_line
from cytoserve_files.errors import FileProblem, NotRegularFile, NotWritable
from cytoserve_files.names import path_of, shown, writable_text
from cytoserve_files.reading import open_regular, read_bytes, read_text
from cytoserve_files.writing import (
    check_output,
    check_output_folder,
    install,
    is_regular_or_new,
    output_file,
    write_bytes,
    write_text,
)

__all__ = [
    "FileProblem",
    "NotRegularFile",
    "NotWritable",
    "append_line",
    "check_output",
    "check_output_folder",
    "install",
    "is_regular_or_new",
    "last_line",
    "open_regular",
    "output_file",
    "path_of",
    "read_bytes",
    "read_text",
    "shown",
    "writable_text",
    "write_bytes",
    "write_text",
]
