"""A third head for MambaVL: over the actions, that is pairs of verb and noun, of a train split. Ours, not the paper's.

The paper has two heads and scores an action by the product of their softmaxes, which cannot say that of two likely
verbs and two likely nouns only certain pairs go together. Where the verb and the noun of what comes next depend on each
other (anticipation) that loses most of what was learned; AVION and AVT have a head over actions for it.

Which question does it read? Each of the other heads reads its own: the verb's the fused vector x_v of the verb
question, the noun's x_n of the noun question. This one is linear on both, W [x_v; x_n] + b: a row of W may be a row of
the verb's head beside one of the noun's, so the product of the two is one of the things that it can learn; and with an
additive fusion its logits are additive too.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from crossmamba.errors import UsageError

Pairs = list[tuple[int, int]]


class ActionHead(nn.Module):
    """Linear over at most `classes` actions; which they are is a buffer, so checkpoints and model files hold it.

    Args:
        width: d of the fused vectors. classes: places; a train split with fewer actions leaves the last ones unused.

    Attributes:
        pairs: int64 (classes, 2), verb and noun of every place, -1 where unused; all unused until `learn`.
    """

    pairs: Tensor

    def __init__(self, width: int, classes: int) -> None:
        super().__init__()
        if type(classes) is not int or classes < 1:
            raise UsageError(f"action_classes is {classes!r}; a whole number, 0 for no head over actions")
        self.linear = nn.Linear(2 * width, classes)
        self.register_buffer("pairs", torch.full((classes, 2), -1, dtype=torch.int64))

    @property
    def classes(self) -> int:
        """Places."""
        return self.linear.out_features

    def learn(self, actions: Sequence[tuple[int, int]]) -> None:
        """Says which (verb, noun) the first places stand for.

        Raises:
            UsageError: more actions than places, or none.
        """
        if not 0 < len(actions) <= self.classes:
            raise UsageError(
                f"the train split has {len(actions)} actions and the model's head places for {self.classes}; give "
                f"--model.model_args.action_classes {max(1, len(actions))}"
            )
        self.pairs.fill_(-1)
        self.pairs[: len(actions)] = torch.tensor(actions, dtype=torch.int64).to(self.pairs.device)

    def known(self) -> Pairs:
        """(verb, noun) of the places in use, which come first; waits for the device."""
        return [(verb, noun) for verb, noun in self.pairs.tolist() if verb >= 0]

    def forward(self, verb: Tensor, noun: Tensor) -> Tensor:
        """The fused vectors of both questions, (B, d) each -> logits (B, classes), of unused places too."""
        return self.linear(torch.cat([verb, noun], dim=-1))


def known_actions(model: nn.Module) -> Pairs:
    """(verb, noun) of the first columns of a model's `action`; [] for a model without the head, or that was never
    trained."""
    head = getattr(model, "action_head", None)
    return [] if head is None else head.known()
