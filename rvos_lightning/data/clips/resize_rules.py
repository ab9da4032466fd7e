"""Frame sizes after the resize rules of published systems. Sizes here are (width, height)."""


def inference_size(width: int, height: int, shortest: int = 1020, longest: int = 1024) -> tuple[int, int]:
    """SAMWISE's inference rule (torchvision's): short side `shortest`, unless the long side then exceeds `longest`."""
    small, large = min(width, height), max(width, height)
    short, long = shortest, int(shortest * large / small)
    if long > longest:
        short, long = int(longest * short / long), longest
    return (short, long) if width <= height else (long, short)
