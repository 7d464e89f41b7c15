"""The books of a cluster: quotas over all sweeps, lending and giving back, dead drivers, lost books, moved clocks."""

from datetime import datetime
from zoneinfo import ZoneInfo

import pytest

from common.errors import RequestError
from tune_jobs.commands.team_cli import text_of
from tune_jobs.team.admission import SILENT_S, TELL_S, TeamAdmission
from tune_jobs.team.quotas import Member, Team, Window
from tune_jobs.team.team_books import LEASE_S, PLACE_S, Answer, Entry, TeamBooks, Telling

SEOUL = ZoneInfo("Asia/Seoul")
NOON = datetime(2026, 11, 25, 12, 0, tzinfo=SEOUL).timestamp()
TEAM = Team(
    members={"minji": Member(quota_gpus=1, models=("kobart",)), "jun": Member(quota_gpus=3)},
    windows=(Window(name="night", start="22:00", end="07:00", quota_gpus={"minji": 4, "jun": 0}),),
)


class Cluster:
    """Four cards, books and clocks that a test sets."""

    def __init__(self, team: Team = TEAM, *, lost: bool = False) -> None:
        self.elapsed_s, self.now_s = 100.0, NOON
        self.books = TeamBooks(elapsed_s=lambda: self.elapsed_s, now=lambda: self.now_s, lost=lost)
        self.team = team
        self.answers = True

    def enter(self, member: str, team: Team | None = None, models: tuple[str, ...] = ("kobart",)) -> None:
        self.books.enter(
            member, sweep=f"{member}s", member=member, models=models, team=team or self.team, source="team.yaml"
        )

    def driver(self, member: str) -> TeamAdmission:
        def exchange(telling: Telling) -> Answer | None:
            return self.books.exchange(member, telling, 4.0) if self.answers else None

        admission = TeamAdmission(
            exchange,
            lambda: self.enter(member),
            lambda: self.books.leave(member),
            elapsed_s=lambda: self.elapsed_s,
            now=lambda: self.now_s,
        )
        admission.open()
        return admission

    def fill(self, driver: TeamAdmission) -> list[str]:
        """Starts m0 to m3 one after another and returns the verdicts."""
        verdicts = []
        for place in range(4):
            verdicts.append(driver.ask(f"m{place}", 1.0).verdict)
            driver.started(f"m{place}", 1.0)
            self.wait(1, driver)
        return verdicts

    def wait(self, seconds: float, *drivers: TeamAdmission) -> None:
        """Lets time pass while drivers go on telling."""
        for _ in range(int(seconds)):
            self.elapsed_s += 1.0
            self.now_s += 1.0
            for driver in drivers:
                driver.tick()


def test_a_quota_holds_over_all_sweeps_of_a_member() -> None:
    cluster = Cluster(Team(members=TEAM.members, lend_idle=False))
    first = cluster.driver("minji")
    cluster.books.enter("other", sweep="b", member="minji", models=(), team=cluster.team, source="t")
    assert first.ask("a1", 0.5).verdict == "own"
    asks = (Entry(trial="b1", gpus=0.5, since_s=0.0), Entry(trial="b2", gpus=0.5, since_s=1.0))
    decisions = cluster.books.exchange("other", Telling(asks=asks), 4.0).decisions
    assert {name: decision.verdict for name, decision in decisions.items()} == {"b1": "own", "b2": "waits"}
    assert decisions["b2"].reason == "minji holds 1 of 1 GPUs and the team does not lend idle GPUs"


def test_idle_cards_are_lent_and_come_back_as_many_as_are_missing_for_all_that_would_follow() -> None:
    cluster = Cluster()
    minji, jun = cluster.driver("minji"), cluster.driver("jun")
    assert cluster.fill(minji) == ["own", "lent", "lent", "lent"]
    assert [minji.must_pause(f"m{place}") for place in range(4)] == [None] * 4

    assert jun.ask("j0", 1.0, further=1).verdict == "waits"
    cluster.wait(2, minji, jun)
    back = {name: minji.must_pause(name) for name in ("m0", "m1", "m2", "m3")}
    assert [name for name, why in back.items() if why] == ["m2", "m3"]
    assert back["m3"] == "minji holds 4 of 1 GPUs and jun asked for what is theirs (quotas change at Wed 22:00)"
    minji.over("m3")
    cluster.wait(2, minji, jun)
    assert jun.ask("j0", 1.0, further=1).verdict == "own"
    assert minji.ask("m3", 1.0).verdict == "waits"


def test_when_a_window_closes_what_was_owned_is_lent() -> None:
    cluster = Cluster()
    cluster.now_s = datetime(2026, 11, 26, 6, 59, tzinfo=SEOUL).timestamp()
    minji, jun = cluster.driver("minji"), cluster.driver("jun")
    assert cluster.fill(minji) == ["own"] * 4
    decision = jun.ask("j0", 2.0)
    assert (decision.verdict, decision.reason) == ("waits", "asks for 2 GPUs, 0 are free")
    assert not any(minji.must_pause(f"m{place}") for place in range(4))
    cluster.wait(61, minji, jun)
    assert [name for name in ("m0", "m1", "m2", "m3") if minji.must_pause(name)] == ["m2", "m3"]


def test_a_dead_driver_is_forgotten_and_a_set_clock_ends_no_lease() -> None:
    cluster = Cluster()
    minji, jun = cluster.driver("minji"), cluster.driver("jun")
    assert jun.ask("j", 3.0).verdict == "own"
    assert minji.ask("m0", 1.0).verdict == "own"
    cluster.now_s += 3600
    minji.tick()
    assert minji.ask("m1", 1.0).verdict == "waits"
    cluster.wait(LEASE_S + 1, minji)  # jun's driver says nothing any more
    assert minji.ask("m1", 1.0).verdict == "lent"
    held = cluster.books.status(4.0)["held"]
    assert isinstance(held, list)
    assert [(entry["member"], entry["trial"], entry["kind"]) for entry in held] == [
        ("minji", "m0", "own"),
        ("minji", "m1", "lent"),
    ]


def test_lost_books_are_full_again_before_anybody_new_is_let_in() -> None:
    cluster = Cluster()
    minji, jun = cluster.driver("minji"), cluster.driver("jun")
    assert jun.ask("j", 3.0).verdict == "own"
    cluster.books = TeamBooks(elapsed_s=lambda: cluster.elapsed_s, now=lambda: cluster.now_s, lost=True)
    reason = minji.ask("m0", 1.0).reason
    assert reason == "the team's books were lost; full again in 30 s, when every sweep has spoken"
    cluster.wait(LEASE_S, minji, jun)
    assert minji.ask("m0", 1.0).verdict == "own"
    assert minji.ask("m1", 1.0).verdict == "waits", "what jun holds was told again"


def test_books_that_do_not_answer_let_nobody_in_and_end_nothing() -> None:
    cluster = Cluster()
    minji = cluster.driver("minji")
    assert minji.ask("m0", 1.0).verdict == "own"
    minji.started("m0", 1.0)
    cluster.answers = False
    decision = minji.ask("m1", 0.5)
    assert decision.reason == "the team's books do not answer; is the cluster's head reachable?"
    assert minji.must_pause("m0") is None
    cluster.answers = True
    cluster.wait(SILENT_S + TELL_S, minji)
    assert minji.ask("m1", 0.5).verdict == "lent"


def test_an_admitted_trial_without_room_in_one_piece_gets_it_from_borrowers() -> None:
    cluster = Cluster()
    minji, jun = cluster.driver("minji"), cluster.driver("jun")
    for place in range(3):
        assert minji.ask(f"m{place}", 0.6).verdict != "waits"
        minji.started(f"m{place}", 0.6)
    assert jun.ask("j", 2.0).verdict == "own"  # 2.2 are free, but no two whole cards
    cluster.wait(PLACE_S, minji, jun)
    assert not any(minji.must_pause(f"m{place}") for place in range(3))
    cluster.wait(3, minji, jun)
    assert [bool(minji.must_pause(f"m{place}")) for place in range(3)] == [False, True, True]
    jun.started("j", 2.0)
    cluster.wait(3, minji, jun)
    assert not any(minji.must_pause(f"m{place}") for place in range(3))


def test_another_team_file_is_refused_while_sweeps_run_and_may_be_put_in_force() -> None:
    cluster = Cluster()
    cluster.enter("minji")
    more = Team(members={"jun": Member(quota_gpus=4), "minji": Member(quota_gpus=0)})
    with pytest.raises(RequestError, match=r"differs from the quotas in force .* minjis \(minji\)"):
        cluster.enter("jun", team=more)
    with pytest.raises(RequestError, match="'minji' is not in team"):
        cluster.books.apply(Team(members={"jun": Member(quota_gpus=4)}), "new.yaml")
    cluster.books.apply(more, "new.yaml")
    cluster.enter("jun", team=more)
    assert cluster.books.status(4.0)["source"] == "team.yaml"


def test_a_model_that_is_not_the_members_is_refused() -> None:
    with pytest.raises(RequestError, match=r"t5: not among the models of minji; team\.yaml gives minji kobart"):
        Cluster().enter("minji", models=("kobart", "t5"))


SHOWN = """\
Wed 12:00 (Asia/Seoul)   ordinary hours   quotas change Wed 22:00, in 9 h 59 min
4 GPUs, 0 free; idle GPUs are lent; in force: team.yaml

member   quota   holds   waits for   focus
minji        1       3         1.5
jun          3       1           0

holds   sweep    trial   GPUs                    for
jun     juns     j0         1   not placed yet   1.0 s
minji   minjis   m0         1                    9.0 s
minji   minjis   m1         1   lent             8.0 s
minji   minjis   m2         1   lent             7.0 s

waits   sweep    trial           GPUs   for     why
minji   minjis   m3 and 2 more    0.5   0.0 s   asks for 0.5 GPUs, 0 are free"""


def test_who_holds_what_and_who_waits_is_shown() -> None:
    cluster = Cluster()
    minji, jun = cluster.driver("minji"), cluster.driver("jun")
    cluster.fill(minji)
    jun.ask("j0", 1.0, further=2)
    cluster.wait(3, minji, jun)
    minji.over("m3")
    cluster.wait(2, minji, jun)
    minji.ask("m3", 0.5, further=2)
    assert text_of(cluster.books.status(4.0)) == SHOWN
