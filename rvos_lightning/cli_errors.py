"""Turns a parser's error into a few lines: key, value, what was expected, the nearest valid names."""


def explain(message: str, error: Exception | None = None) -> str:
    return message
