"""The command behind `make prove`: runs the parts of the proof, and exits with 1 if one fails."""

import argparse
import logging
import os
import sys
import traceback
from collections.abc import Iterator

from tests import engines
from tests.prove.histories import prove_histories
from tests.prove.power import prove_power
from tests.prove.processes import prove_processes
from tests.prove.simulated import TALLY, prove_simulation
from tests.prove.tallies import prove_tallies
from tests.prove.verdict import Verdict
from tests.prove.worlds import prove_world

PARTS = ("simulation", "histories", "power", "dynamodb", "sqlite", "tally", "keys", "usage")
HISTORIES_A_SEED = 5  # small random ones for each seed of the simulation
STEP_SEEDS = 100  # seeds of the simulation for each operation whose disk loses power


def main() -> int:
    logging.disable(logging.CRITICAL)
    parser = _parser()
    asked = parser.parse_args()
    for part in set(asked.parts) - set(PARTS):
        parser.error(f"{part!r} is no part; there are {', '.join(PARTS)}")
    os.environ.update(engines.ENVIRONMENT)  # no credentials of whoever runs this
    failed = []
    for part in asked.parts or PARTS:
        try:
            for verdict in proofs(part, asked):
                print(verdict, flush=True)
                if not verdict.holds:
                    failed.append(verdict.part)
        except Exception:  # the other parts are run all the same
            traceback.print_exc()
            failed.append(part)
    print(f"proof: {'VIOLATED in ' + ', '.join(failed) if failed else 'every part holds'}")
    return 1 if failed else 0


def proofs(part: str, asked: argparse.Namespace) -> Iterator[Verdict]:
    """The verdicts of one part; tallies are simulated, and run on each store."""
    if part != TALLY:
        yield prove(part, asked)
        return
    first = asked.seed or 0
    yield prove_simulation(seeds=asked.seeds, first=first, scenario=asked.scenario, part=TALLY)
    if not asked.scenario:
        for store in ("sqlite", "dynamodb"):
            yield prove_tallies(store, seconds=60 * asked.minutes, seed=asked.seed)


def prove(part: str, asked: argparse.Namespace) -> Verdict:
    seed = asked.seed
    if part == "simulation":
        seeds = 1 if asked.scenario and seed is not None else asked.seeds
        return prove_simulation(seeds=seeds, first=seed or 0, scenario=asked.scenario)
    if part == "histories":
        return prove_histories(histories=HISTORIES_A_SEED * asked.seeds, seed=seed or 0)
    if part in ("keys", "usage"):
        return prove_world(part, seeds=asked.seeds, first=seed or 0)
    if part == "power":
        steps = asked.steps or max(20, asked.seeds // STEP_SEEDS)
        return prove_power(steps=steps, seed=seed or 0)
    return prove_processes(part, seconds=60 * asked.minutes, seed=seed)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("make prove", description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}")
    parser.add_argument("--seeds", type=int, default=2000, help="of the simulation, in all")
    parser.add_argument("--minutes", type=float, default=0.25, help="of real processes, per store")
    parser.add_argument("--seed", type=int, help="run this one again")
    parser.add_argument("--steps", type=int, help="of the power cut: operations")
    parser.add_argument("--scenario", default="", help="of the simulation: only this one")
    return parser


if __name__ == "__main__":
    sys.exit(main())
