"""What every experiment asks for: where its results go, and which seeds it takes."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Common:
    """--seeds is a short way to say --seed: what a run is known by is the seeds themselves."""

    out: Path = Path("runs")
    """Folder of the results and checkpoints; the run that it holds is continued."""
    seed: tuple[int, ...] = (0,)
    """All is drawn and fitted once per seed, and the tables give mean ± standard deviation."""
    seeds: int | None = None
    """This many seeds in a row, of which the first is that of --seed."""

    def __post_init__(self) -> None:
        if not self.seed:
            raise ValueError("--seed is empty: expected one seed or more")
        if self.seeds is not None:
            if self.seeds < 1:
                raise ValueError(f"--seeds is {self.seeds}: expected 1 or more")
            object.__setattr__(self, "seed", tuple(range(self.seed[0], self.seed[0] + self.seeds)))
            object.__setattr__(self, "seeds", None)
