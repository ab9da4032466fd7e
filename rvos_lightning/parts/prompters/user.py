"""A user's clicks, boxes and masks instead of words."""

from rvos_lightning.core.seams import Prompter
from rvos_lightning.core.types import Clip, Features, Prompt


class UserPrompter(Prompter):
    """No tokens up front: what the user points at next depends on the masks, so the frame loop asks `clip.user`."""

    def forward(self, clip: Clip, features: Features) -> Prompt:
        """An empty prompt.

        Raises:
            ValueError: the clip has no user.
        """
        if clip.user is None:
            raise ValueError(
                "UserPrompter needs clips with a user: give --data.simulate_user, or --data.prompts in prediction"
            )
        level = features.pyramid[-1]
        return Prompt(level.new_zeros(len(clip), clip.time, 0, level.shape[2]))
