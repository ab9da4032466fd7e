"""Numbers with bounds that are not the usual ones of `run.bounds`, by name."""

from typing import Annotated

from annotated_types import Ge, Interval

FromZero = Annotated[int, Ge(0)]
"""A count of which none is a choice."""

Share = Annotated[float, Interval(ge=0, le=1)]
"""A probability, a fraction, or an overlap."""
