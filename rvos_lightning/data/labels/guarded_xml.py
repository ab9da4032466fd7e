"""XML from strangers: no document types, no entities, no depth or size beyond the limits."""

import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any
from xml.parsers import expat

from rvos_lightning.data.errors import DataError
from rvos_lightning.data.limits import limit


def read_xml(content: bytes, path: Path) -> ElementTree.Element:
    """The outermost element of a file's content.

    Raises:
        DataError: not XML, or XML that declares a document type or entities, which could name other files or
            unfold without end.
    """
    builder = ElementTree.TreeBuilder()
    parser = expat.ParserCreate()
    depth = 0

    def start(name: str, attributes: dict[str, str]) -> None:
        nonlocal depth
        depth += 1
        if depth > limit("json_depth"):
            raise DataError(f"{path}: nested too deep for data. The file is damaged; export it again.")
        builder.start(name, attributes)

    def end(name: str) -> None:
        nonlocal depth
        depth -= 1
        builder.end(name)

    def refuse(*_: Any) -> None:
        raise DataError(f"{path}: declares a document type or entities, which no annotation needs. Export it again.")

    parser.StartElementHandler, parser.EndElementHandler, parser.CharacterDataHandler = start, end, builder.data
    parser.StartDoctypeDeclHandler = parser.EntityDeclHandler = parser.ExternalEntityRefHandler = refuse
    try:
        parser.Parse(content, True)
        return builder.close()
    except expat.ExpatError as error:
        raise DataError(f"{path}: not valid XML ({error}). The file is cut off or damaged; export it again.") from error
    except (AssertionError, LookupError) as error:
        raise DataError(f"{path}: not valid XML ({error}). Export it again.") from error
