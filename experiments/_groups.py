"""Labels that share a budget: within each group exactly k are on, those that score highest."""

from dataclasses import dataclass

import torch
from torch import Generator, Tensor

BUDGETS = (1, 2)  # labels that are on in each group
GROUP, FEATURES = 4, 8
LABELS = GROUP * len(BUDGETS)


@dataclass(frozen=True)
class Groups:
    """Scores are linear in x ~ N(0, I); which labels are on depends on all the scores of their group."""

    scores: Tensor

    @staticmethod
    def drawn(seed: int) -> "Groups":
        weight = torch.randn(LABELS, FEATURES, generator=Generator().manual_seed(seed))
        return Groups(weight / FEATURES**0.5)

    def sample(self, count: int, seed: int) -> tuple[Tensor, Tensor]:
        """x (count, FEATURES) and labels (count, LABELS) in {0, 1}."""
        x = torch.randn(count, FEATURES, generator=Generator().manual_seed(seed))
        scores = (x @ self.scores.mT).unflatten(-1, (len(BUDGETS), GROUP))
        ranks = scores.argsort(-1, descending=True).argsort(-1)
        return x, (ranks < torch.tensor(BUDGETS).unsqueeze(-1)).flatten(-2).to(x.dtype)
