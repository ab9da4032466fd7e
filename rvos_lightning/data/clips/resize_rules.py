"""Frame sizes after the resize rules of published systems. Sizes here are (width, height)."""


def train_size(width: int, height: int, longest: int = 1024) -> tuple[int, int]:
    """SAMWISE's training rule: the long side becomes `longest`.

    The long side is computed back from the rounded short one, as the official code does, so it may come out one
    smaller, or larger than `longest` for extreme shapes (then the excess is cut off later).
    """
    small, large = min(width, height), max(width, height)
    short = round(longest * small / large)
    long = int(short * large / small)
    return (long, short) if width >= height else (short, long)


def inference_size(width: int, height: int, shortest: int = 1020, longest: int = 1024) -> tuple[int, int]:
    """SAMWISE's inference rule (torchvision's): short side `shortest`, unless the long side then exceeds `longest`."""
    small, large = min(width, height), max(width, height)
    short, long = shortest, int(shortest * large / small)
    if long > longest:
        short, long = int(longest * short / long), longest
    return (short, long) if width <= height else (long, short)
