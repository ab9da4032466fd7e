"""The error of everything that reads data; importing it imports nothing else."""

from collections.abc import Iterator
from contextlib import contextmanager


class DataError(ValueError):
    """Data on disk that cannot be used; the message names file, field and remedy."""


@contextmanager
def in_words(what: str, remedy: str) -> Iterator[None]:
    """The net below readers that name file and field, for kinds of content that nobody has seen yet.

    Args:
        what: names the file and says what it is not.
        remedy: a sentence.

    Raises:
        DataError: in place of what code raises that met something of another kind than it expects.
    """
    try:
        yield
    except DataError:
        raise
    except (TypeError, KeyError, IndexError, AttributeError, ValueError, OverflowError, RecursionError) as error:
        raise DataError(f"{what} ({type(error).__name__}: {str(error)[:120]}). {remedy}") from error
