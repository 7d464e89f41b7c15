"""What `team` shows of a cluster with quotas, of one without, and of a file alone."""

import json
import subprocess
import sys
from pathlib import Path

from tests.cluster.scheduling.shells import Shells
from tune_jobs.commands.team_cli import text_of

ROOT = Path(__file__).resolve().parents[2]
SHOWN = """\
Wed 12:00 (Asia/Seoul)   ordinary hours   quotas change Wed 22:00, in 9 h 59 min
4 GPUs, 0 free; idle GPUs are lent; in force: team.yaml

member   quota   holds   waits for   focus
minji        1       3         1.5
jun          3       1           0

holds   trial   GPUs   GPU model                    for
jun     j/0        1   simulated-24GiB   starts     4.9 s
minji   m/0        1   simulated-24GiB              9.9 s
minji   m/1        1   simulated-24GiB   borrowed   9.9 s
minji   m/2        1   simulated-24GiB   borrowed   9.9 s

waits   trial   GPUs   why
"""


def test_who_holds_what_and_who_waits_is_shown() -> None:
    shells = Shells()
    minji, jun = shells.driver("m", member="minji"), shells.driver("j", member="jun")
    for number in range(3):
        minji.submit(shells.request(f"m/{number}"))
    shells.wait(5, minji, jun)
    for number in range(3):
        minji.started(f"m/{number}")
    jun.submit(shells.request("j/0"))
    shells.wait(1, jun, minji)
    for number in (3, 4, 5):
        minji.submit(shells.request(f"m/{number}", 11.0))
    shells.wait(4, minji, jun)
    assert text_of(shells.service.status()).startswith(SHOWN)


def test_a_cluster_without_quotas_shows_its_queue_and_what_others_hold() -> None:
    shells = Shells()
    shells.service.node_use({shells.inventory.nodes[0].name: 3.5})
    client = shells.driver("s")
    client.submit(shells.request("s/1"))
    client.submit(shells.request("s/2", 11.0))
    shells.wait(2, client)
    head, cards, others, *_, last = text_of(shells.service.status() | {"problems": ["node x: no answer"]}).splitlines()
    assert head.endswith("   no quotas")
    assert cards == "4 GPUs, 0 free"
    assert others == "other Ray programs hold 3.5 of the GPUs of 127.0.0.1"
    assert last.split()[:2] == ["s/1", "1"]


def test_a_file_alone_is_shown_and_said_not_to_be_in_force() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tune_jobs", "team", "--file", "team.yaml", "--format", "json"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    status = json.loads(done.stdout)
    assert (status["in_force"], [one["member"] for one in status["members"]]) == (False, ["minji", "jun"])
