"""Of many random problems, how many wrong answers did each library admit as solved?

    python -m benchmarks.honesty [--quick] [--count 100000] [--peers] [--peer-count 5000] [--fresh] [--out FILE]

The mix of the robustness table: QPs and LPs, full, diagonal and singular, with every group of constraints, degenerate,
redundant, badly scaled; a third infeasible, unbounded or not convex. Every claim of ours is judged from the data in
numpy, in units without the bad scaling: OPTIMAL by feasibility and weak duality, a failure by its ray. A claim without
such a proof, and a tenth of all problems at random, go to independent solvers as well. A peer is asked through its own
layer, with its defaults; it admits a failure by an error, by a status, or by nan.

The work is cut into shards, and each finished one is a line of FILE.jsonl: started again, the run goes on where it
stopped (--fresh: from the beginning). FILE.log tells the progress.
"""

import json
import logging
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch

import icnn
from tests.solvers.judging import WRONG, flat
from tests.solvers.random_problems import Array, Batch, Instance, draw_instance, draw_layout

from ._contender import Contender
from ._peers import Cvxpylayers, MoreauAutomatic, Proxsuite, Qpax, installed
from ._problems import Case, Data, Point
from ._proofs import judge_one, off_by
from ._report import command, installed_packages, log, machine, parser, table, write

BATCH = 32  # instances that share a layout
LAYOUTS = 20  # batches of a shard
SHARE = 0.1  # of the problems that the oracle judges in any case
ROUGH = 1e-3
COLUMNS = {
    "proved": "right and proved",
    "confirmed": "right, not proved",
    "admitted": "failure admitted",
    "wrong": "wrong claim",
    "wrong solved": "wrong, called solved",
}
PEER_COLUMNS = {
    "right": "right to 1e-6",
    "admitted": "failure admitted",
    "off": "off by 1e-6 to 1e-3, called solved",
    "wrong": "wrong by more than 1e-3, called solved",
    "no solution": "no solution exists, called solved",
}
PACKAGES = ("torch", "highspy", "daqp", "clarabel", "moreau", "proxsuite", "qpax", "cvxpylayers")

Record = dict[str, Any]


class QpaxDefault(Qpax):
    name = "qpax"
    options: ClassVar[dict[str, Any]] = {}


PEERS: tuple[type[Contender], ...] = (MoreauAutomatic, Proxsuite, QpaxDefault, Cvxpylayers)


def main() -> None:
    args = options()
    path = args.out.with_suffix(".jsonl")
    path.parent.mkdir(parents=True, exist_ok=True)
    if args.fresh:
        path.unlink(missing_ok=True)
    log.addHandler(logging.FileHandler(path.with_suffix(".log")))
    count = 2 * BATCH * LAYOUTS if args.quick else args.count
    judges: dict[str, tuple[Callable[[Batch], Record], int]] = {"icnn": (judge_ours, count)}
    if args.peers:
        peer_count = BATCH * LAYOUTS if args.quick else args.peer_count
        there = installed()
        judges |= {p.name: (peer_judge(p), peer_count) for p in PEERS if p in there or issubclass(p, tuple(there))}
    with warnings.catch_warnings(action="ignore"):
        for name, (judge, wanted) in judges.items():
            work(path, name, judge, wanted)
    report(args.out, read(path))


def options():
    parse = parser(__doc__ or "", "honesty.md")
    parse.add_argument("--count", type=int, default=100_000, help="problems for us (default: %(default)s)")
    parse.add_argument("--peers", action="store_true", help="also ask the peers that are installed")
    parse.add_argument("--peer-count", type=int, default=5_000, help="problems for each peer (default: %(default)s)")
    parse.add_argument("--fresh", action="store_true", help="forget what was done")
    return parse.parse_args()


def work(path: Path, name: str, judge: Callable[[Batch], Record], count: int) -> None:
    """The shards that are missing, one line each."""
    done = {record["shard"] for record in read(path) if record["library"] == name}
    shards = -(-count // (BATCH * LAYOUTS))
    for shard in range(shards):
        if shard in done:
            continue
        counts, notable = Counter(), []
        for batch in batches(shard):
            record = judge(batch)
            counts.update(record["counts"])
            notable += record["notable"]
        with path.open("a", encoding="utf-8") as file:
            line = {"library": name, "shard": shard, "counts": counts, "notable": notable}
            file.write(json.dumps(line) + "\n")
        log.info("%s: shard %d of %d, %s", name, shard + 1, shards, dict(counts))


def read(path: Path) -> list[Record]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []


def batches(shard: int) -> Iterator[Batch]:
    for seed in range(shard * LAYOUTS, (shard + 1) * LAYOUTS):
        rng = np.random.default_rng([seed, BATCH])
        layout = draw_layout(rng, (BATCH,))
        yield Batch(seed, (BATCH,), layout, tuple(draw_instance(rng, layout) for _ in range(BATCH)))


def judge_ours(batch: Batch) -> Record:
    solution = icnn.solve(batch.problem(), on_failure="zero")
    checked = np.random.default_rng([batch.seed, 1]).random(BATCH) < SHARE
    names = ("x", "nu", "lam", "lam_lower", "lam_upper")
    points = {name: flat(getattr(solution, name), batch) for name in names}
    rays = {name: flat(ray, batch) for name, ray in solution.ray._asdict().items()}
    statuses = [icnn.Status(code).name for code in solution.status.flatten().tolist()]
    counts: Counter[str] = Counter(problems=BATCH)
    notable: list[list[object]] = []
    for i, (instance, status) in enumerate(zip(batch.instances, statuses, strict=True)):
        point, ray = ({name: values[i] for name, values in group.items()} for group in (points, rays))
        verdict, asked, note = judge_one(instance, status, point, ray, bool(checked[i]))
        counts.update({verdict: 1, "oracle": asked, f"{instance.outcome} {verdict}": 1})
        if note or verdict not in ("proved", "admitted"):
            notable.append([batch.seed, i, instance.outcome, status, verdict, note])
    return {"counts": counts, "notable": notable}


def peer_judge(peer: type[Contender]) -> Callable[[Batch], Record]:
    """One instance after the other; JAX, which compiles for every shape, gets the batch."""

    def judge(batch: Batch) -> Record:
        groups = [batch.instances] if issubclass(peer, Qpax) else [(instance,) for instance in batch.instances]
        verdicts = [verdict for group in groups for verdict in peer_verdicts(peer, group)]
        return {"counts": Counter([*verdicts, *["problems"] * len(verdicts)]), "notable": []}

    return judge


def peer_verdicts(peer: type[Contender], instances: Sequence[Instance]) -> list[str]:
    try:
        contender = peer(stated(instances))
        x, admits = contender.point().detach().numpy(), contender.admits()
    except Exception:  # noqa: BLE001  (an error is how many of them say that there is no solution)
        return ["admitted"] * len(instances)
    return [peer_verdict(*each) for each in zip(instances, x, admits, strict=True)]


def peer_verdict(instance: Instance, x: Array, admits: bool) -> str:
    if admits or not np.isfinite(x).all():
        return "admitted"
    if instance.outcome != "OPTIMAL":
        return "no solution"
    error = off_by(instance, x, instance.objective)
    return "right" if error <= WRONG else "off" if error <= ROUGH else "wrong"


def stated(instances: Sequence[Instance]) -> Case:
    """The instances as rows G x <= h, A x = b; in a batch, a bound that is absent in one of them reads 0 <= 1."""
    parts = [as_rows(instance.data, keep=len(instances) > 1) for instance in instances]
    data: Data = {name: torch.from_numpy(np.stack([part[name] for part in parts])) for name in parts[0]}
    data = {name: t for name, t in data.items() if t.shape[1] or name in ("Q", "p")}
    zero = torch.zeros_like(data["p"])
    empty = zero[:, :0]
    return Case("random", data, ("p",), zero, Point(zero, empty, empty, empty, empty), {})


def as_rows(data: Any, keep: bool) -> dict[str, Array]:
    n, bounds = len(data.p), np.concatenate((-data.lower, data.upper))
    eye, there = np.concatenate((-np.eye(n), np.eye(n))), np.isfinite(bounds)
    if keep:
        eye, bounds = eye * there[:, None], np.where(there, bounds, 1.0)
    else:
        eye, bounds = eye[there], bounds[there]
    G, h = np.concatenate((data.G, eye)), np.concatenate((data.h, bounds))
    return {"Q": data.hessian, "p": data.p, "G": G, "h": h, "A": data.A, "b": data.b}


def report(out: Path, records: Sequence[Record]) -> None:
    totals: dict[str, Counter] = {}
    for record in records:
        totals.setdefault(record["library"], Counter()).update(record["counts"])
    ours = totals.pop("icnn", Counter())
    outcomes = ("OPTIMAL", "PRIMAL_INFEASIBLE", "DUAL_INFEASIBLE", "NONCONVEX")
    rows = [["all", ours["problems"], *(ours[key] for key in COLUMNS)]]
    for outcome in outcomes:
        found = [ours[f"{outcome} {key}"] for key in COLUMNS]
        rows.append([outcome, sum(found), *found])
    doubts = [note for record in records if record["library"] == "icnn" for note in record["notable"]]
    peers = [[name, c["problems"], *(c[key] for key in PEER_COLUMNS)] for name, c in totals.items()]
    write(
        out,
        "# Honesty",
        f"`{command()}`",
        machine(installed_packages(PACKAGES)),
        f"icnn: {ours['wrong solved']} of {ours['problems']} answers are wrong and called solved. The independent "
        f"solvers were asked {ours['oracle']} times.",
        table(["icnn, by construction", "problems", *COLUMNS.values()], rows),
        "\n".join(f"- seed {note[0]}, instance {note[1]}: {', '.join(map(str, note[2:]))}" for note in doubts[:50]),
        table(["peer", "problems", *PEER_COLUMNS.values()], peers) if peers else "",
    )


if __name__ == "__main__":
    main()
