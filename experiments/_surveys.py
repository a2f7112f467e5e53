"""Groups of people and their contacts, and surveys that count how many of each group are infected."""

from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from icnn.adjoints import noisy_or_count

PEOPLE, CONTACTS = (20, 80), (1, 24)  # the least and the most in a group, and of a person
EXPOSURE, DISTANCE = (0.5, 2.0), (2.0, 6.0)  # the least and the greatest mean in a group


@dataclass(frozen=True)
class Contacts:
    """Exposures I and distances D of the contacts of people in groups, ragged as in `icnn.adjoints.noisy_or_count`."""

    I: Tensor
    D: Tensor
    offsets: Tensor
    groups: Tensor

    def infected(self, alpha: float, beta: float) -> Tensor:
        """The probability of every person, (people,): a group of one each."""
        alone = torch.arange(len(self.offsets))
        return noisy_or_count(alpha, beta, self.I, self.D, self.offsets, alone)

    def variance(self, alpha: float, beta: float) -> Tensor:
        """Of the count of every group: a sum of independent Bernoullis that are not identical."""
        probability = self.infected(alpha, beta)
        return self.total(probability * (1 - probability))

    def total(self, of_people: Tensor) -> Tensor:
        """The sum over the people of each group."""
        return torch.segment_reduce(of_people, "sum", offsets=self.groups)


def drawn(groups: int, generator: Generator) -> Contacts:
    """Groups of different size, of people with different numbers of contacts, as exposed and as near as their group is.

    Exposures are exponential, distances uniform within 2 of their mean, and the means uniform over the groups.
    """
    sizes = torch.randint(PEOPLE[0], PEOPLE[1] + 1, (groups,), generator=generator)
    lengths = torch.randint(CONTACTS[0], CONTACTS[1] + 1, (int(sizes.sum()),), generator=generator)
    contacts = torch.segment_reduce(lengths.double(), "sum", lengths=sizes).long()
    means = torch.empty(2, groups, dtype=torch.float64)
    for mean, ends in zip(means, (EXPOSURE, DISTANCE), strict=True):
        mean.uniform_(*ends, generator=generator)
    I, D = means.repeat_interleave(contacts, -1)
    I *= torch.empty_like(I).exponential_(generator=generator)
    D += torch.empty_like(D).uniform_(-2, 2, generator=generator)
    return Contacts(I, D, _offsets(lengths), _offsets(sizes))


def crowd(contacts: int, generator: Generator) -> Contacts:
    """One group with so many contacts in all."""
    rows = torch.randint(CONTACTS[0], CONTACTS[1] + 1, (contacts // 8 + 100,), generator=generator)
    ends = rows.cumsum(0)
    offsets = torch.cat((ends.new_zeros(1), ends[ends < contacts], ends.new_tensor([contacts])))
    I = torch.empty(contacts, dtype=torch.float64).exponential_(generator=generator)
    D = torch.empty(contacts, dtype=torch.float64).uniform_(DISTANCE[0], DISTANCE[1], generator=generator)
    return Contacts(I, D, offsets, torch.tensor([0, len(offsets) - 1]))


def counted(contacts: Contacts, alpha: float, beta: float, generator: Generator) -> Tensor:
    """How many fall ill in each group."""
    probability = contacts.infected(alpha, beta)
    ill = torch.rand(probability.shape, dtype=torch.float64, generator=generator) < probability
    return contacts.total(ill.double())


def _offsets(lengths: Tensor) -> Tensor:
    return torch.nn.functional.pad(lengths.cumsum(0), (1, 0))
