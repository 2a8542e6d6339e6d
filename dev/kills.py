"""The real process is killed at random moments, again and again, under traffic; the last line is one JSON object.

One ledger and one broker see it all: every life begins with what the ones before it have left. Then the faults end,
and everything must come to its end. The seed fixes the requests and the moments, not how the machine schedules them.

    make kills KILLS=200 SEED=1
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

from dev.broker import broker
from dev.stage import heed_sigterm
from dev.trial import publish_some, trial

LONGEST_LIFE_S = 2.5
RADIO_S = 0.2
ENDS_WITHIN_S = 120.0


def patient(settings: dict[str, Any]) -> None:
    """Evidence needs a bridge that lives long enough to ask for it."""
    settings["timing"]["doubt_s"] = 60


async def kill_often(kills: int, seed: int, amqp_url: str) -> dict[str, Any]:
    """So many lives that end by SIGKILL at a random moment, and one that brings everything to its end."""
    chance, began = random.Random(seed), time.monotonic()
    async with trial(amqp_url, radio_s=RADIO_S, config=patient) as play:
        for n in range(1, kills + 1):
            await play.begin_life()
            dies_at = time.monotonic() + chance.uniform(0.0, LONGEST_LIFE_S)
            await publish_some(play, 10 * n, chance)
            await asyncio.sleep(max(0.0, dies_at - time.monotonic()))
            await play.end_life()
            if n % 10 == 0 or n == kills:
                final, took_s = len(play.finals()), time.monotonic() - began
                say(f"kills: {n} of {kills}, {final} of {len(play.expected)} SMS final, {took_s:.0f} s")
        await play.begin_life()
        await play.until(play.all_final, ENDS_WITHIN_S)
        verdict = await play.verdict()
        for words in (verdict.lost, verdict.duplicated, verdict.unexpected, verdict.wrong):
            for word in words:
                say(word)
        return {
            "kills": kills,
            "seed": seed,
            "sms": len(play.expected),
            "lost": len(verdict.lost),
            "duplicated": len(verdict.duplicated),
            "unexpected": len(verdict.unexpected),
            "wrong": len(verdict.wrong),
            "unknown": len(verdict.unknown),
            "poison": sum(e["type"] == "sms.rejected.v1" and e["data"]["reason"] == "poison" for e in play.told),
            "seconds": round(time.monotonic() - began),
        }


def holds(told: dict[str, Any]) -> bool:
    """Whether every promise was kept."""
    return not any(told[kind] for kind in ("lost", "duplicated", "unexpected", "wrong"))


def say(words: str) -> None:
    """Progress goes to standard error; standard output is for the result."""
    print(words, file=sys.stderr, flush=True)


def main() -> int:
    """Run it; exit code 1 where a promise does not hold."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--kills", type=int, default=200, help="how often the process is killed")
    parser.add_argument("--seed", type=int, default=1, help="of the requests and the moments")
    chosen = parser.parse_args()
    heed_sigterm()
    with broker() as url:
        told = asyncio.run(kill_often(chosen.kills, chosen.seed, url))
    print(json.dumps(told))
    return 0 if holds(told) else 1


if __name__ == "__main__":
    sys.exit(main())
