"""Searches over a database: shared, resumed, and never the worse for a death."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from optuna.study import Study, create_study
from optuna.trial import TrialState

from fake_workshop import SPACE, FakeWorkshop, a_search, search_with_a_quick_heart
from hark.errors import DiskFull, Interrupted, ModelError, ProcessLost, RunError, UsageError, VerificationError
from hark.exploring import trials
from hark.exploring.budget import Budget
from hark.exploring.pricing import price_of
from hark.exploring.sampling import WithinBudget
from hark.exploring.searching import Search, search
from hark.exploring.trials import AGAIN, FAULT, open_storage, put_back, take_up_lost, trials_of
from hark.recipes.side_by_side import Deed, do_all

PATIENCE_S = 300.0
pytestmark = pytest.mark.filterwarnings("ignore:Heartbeat of storage")  # some tests ask for trials by hand


def study_of(wanted: Search) -> Study:
    return wanted.open(open_storage(wanted.storage))


def states(wanted: Search, study: Study | None = None) -> dict[str, int]:
    found = [trial.state.name for trial in (study or study_of(wanted)).get_trials()]
    return {name: found.count(name) for name in sorted(set(found))}


def begun(out: Path) -> list[Path]:
    return sorted(out.glob("begun-*"))


def until(happened: Any) -> None:
    end = time.monotonic() + PATIENCE_S
    while not happened():
        assert time.monotonic() < end, "has not happened"
        time.sleep(0.02)


def test_as_many_candidates_are_tried_as_are_wanted_each_within_the_budget_and_only_once(tmp_path: Path) -> None:
    wanted = a_search(tmp_path, count=4)
    search(wanted)
    tried = trials_of(study_of(wanted))
    assert len(tried) == len({each.name for each in tried}) == 4
    assert all(wanted.budget.admits(each.price) for each in tried)
    assert {each.state for each in tried} == {"done", "stopped"}
    assert all(len(each.by_fold) == (2 if each.state == "done" else 1) and each.engine_us > 0 for each in tried)


def test_what_does_worse_than_half_of_the_others_is_stopped_after_the_first_fold(tmp_path: Path) -> None:
    wanted = a_search(tmp_path, count=5)
    search(wanted)
    tried = trials_of(study_of(wanted))
    stopped = [each.by_fold[0] for each in tried if each.state == "stopped"]
    done = [each.by_fold[0] for each in tried if each.state == "done"]
    assert stopped and done and min(done) <= min(stopped)


def test_the_same_search_goes_on_where_it_stopped_and_more_may_be_wanted(tmp_path: Path) -> None:
    search(a_search(tmp_path, count=2))
    before = trials_of(study_of(a_search(tmp_path)))
    more = a_search(tmp_path, count=4)
    search(more)
    after = trials_of(study_of(more))
    assert after[:2] == before
    assert len(after) == 4
    search(more)
    assert trials_of(study_of(more)) == after


def test_processes_that_join_share_one_study(tmp_path: Path) -> None:
    wanted = a_search(tmp_path, count=5, pause_s=0.2)
    study_of(wanted)
    do_all([Deed(f"search {n}", search, (wanted,)) for n in range(2)], jobs=2)
    tried = trials_of(study_of(wanted))
    assert len({each.name for each in tried}) == len(tried)
    assert 5 <= len(tried) <= 6
    assert {each.state for each in tried} <= {"done", "stopped"}


def test_a_killed_process_leaves_no_trial_stuck_or_lost(tmp_path: Path) -> None:
    """It dies in the midst of a trial; another one joins, and what was begun comes to its end."""
    context = multiprocessing.get_context("spawn")
    slow, quick = a_search(tmp_path, count=2, pause_s=1000.0), a_search(tmp_path, count=2)
    process = context.Process(target=search_with_a_quick_heart, args=(slow,))
    study_of(quick)
    process.start()
    until(lambda: begun(tmp_path))
    assert process.pid
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    (victim,) = [each.name for each in trials_of(study_of(quick))]
    assert states(quick) == {"RUNNING": 1}
    process = context.Process(target=search_with_a_quick_heart, args=(quick,))
    process.start()
    process.join()
    tried = trials_of(study_of(quick))
    assert victim in {each.name for each in tried if each.state in ("done", "stopped")}
    assert len(tried) == len({each.name for each in tried}) == 2
    assert set(states(quick)) <= {"COMPLETE", "PRUNED", "FAIL"}
    assert states(quick)["FAIL"] == 1  # the first try of the victim


def test_a_signal_puts_the_trial_back_at_once(tmp_path: Path) -> None:
    wanted = a_search(tmp_path, count=2, faults=(Interrupted("stopped", signal.SIGTERM),))
    with pytest.raises(Interrupted):
        search(wanted)
    assert states(wanted) == {"FAIL": 1, "WAITING": 1}
    search(wanted)
    workshop = wanted.workshop
    assert isinstance(workshop, FakeWorkshop)
    assert workshop.made[0] == workshop.made[1]  # the same candidate again, before any other
    assert states(wanted).keys() == {"COMPLETE", "FAIL"} or states(wanted).keys() == {"COMPLETE", "FAIL", "PRUNED"}
    assert len(trials_of(study_of(wanted))) == 2


@pytest.mark.parametrize("error", [DiskFull("no space"), RunError("moved away")])
def test_what_is_no_fault_of_a_candidate_ends_the_process_and_not_the_trial(
    tmp_path: Path, error: RunError
) -> None:
    wanted = a_search(tmp_path, count=2, faults=(error,))
    with pytest.raises(type(error)):
        search(wanted)
    assert states(wanted) == {"FAIL": 1, "WAITING": 1}


def test_a_candidate_that_cannot_be_made_fails_with_its_reason_and_does_not_count(tmp_path: Path) -> None:
    wanted = a_search(tmp_path, count=2, faults=(ModelError("a scale is too large"),))
    search(wanted)
    study = study_of(wanted)
    (failed,) = study.get_trials(states=(TrialState.FAIL,))
    assert failed.user_attrs[FAULT] == "a scale is too large"
    assert [each.state for each in trials_of(study)].count("failed") == 1
    assert len(study.get_trials()) == 3
    take_up_lost(study)
    assert not study.get_trials(states=(TrialState.WAITING,))


def test_a_failed_proof_is_told_at_once(tmp_path: Path) -> None:
    with pytest.raises(VerificationError):
        search(a_search(tmp_path, faults=(VerificationError("engine and reference differ"),)))


def test_a_process_that_was_thought_dead_goes_on_with_another_trial(tmp_path: Path) -> None:
    """Its machine slept, say: others have its trial now, and nothing of it is tried twice over."""
    wanted = a_search(tmp_path, count=2)
    study = study_of(wanted)

    class Slept(FakeWorkshop):
        def try_out(self, candidate: Any, fold: int) -> Any:
            if not self.made:
                (trial,) = study.get_trials(states=(TrialState.RUNNING,))
                study.tell(trial.number, state=TrialState.FAIL)
                put_back(study, study.get_trials()[trial.number])
            return super().try_out(candidate, fold)

    workshop = Slept(source=wanted.workshop.source, out=tmp_path, teachers=wanted.workshop.teachers)
    search(Search(**{**vars(wanted), "workshop": workshop}))
    assert len(trials_of(study)) == 2
    assert states(wanted)["FAIL"] == 1


def test_a_trial_that_died_before_its_first_beat_is_found_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = a_search(tmp_path, count=1)
    search(wanted)
    study = study_of(wanted)
    put_back(study, study.get_trials()[0])
    study.ask()  # takes the waiting one, and a new one
    study.ask()
    take_up_lost(study)
    assert states(wanted, study)["RUNNING"] == 2
    monkeypatch.setattr(trials, "GRACE_S", -1)
    take_up_lost(study)
    assert states(wanted, study) == {"COMPLETE": 1, "FAIL": 2, "WAITING": 1}  # one had no values yet


def test_a_death_between_failing_and_putting_back_is_made_good_once(tmp_path: Path) -> None:
    wanted = a_search(tmp_path, count=1)
    search(wanted)
    study = study_of(wanted)
    put_back(study, study.get_trials()[0])
    again = study.ask()
    study.tell(again, state=TrialState.FAIL)
    take_up_lost(study)
    take_up_lost(study)
    (waiting,) = study.get_trials(states=(TrialState.WAITING,))
    assert waiting.user_attrs[AGAIN] == again.number
    assert waiting.params == study.get_trials()[0].params


def test_two_that_put_a_trial_back_at_the_same_moment_have_it_tried_once(tmp_path: Path) -> None:
    wanted = a_search(tmp_path, count=1, faults=(Interrupted("stopped"),))
    with pytest.raises(Interrupted):
        search(wanted)
    study = study_of(wanted)
    (waiting,) = study.get_trials(states=(TrialState.WAITING,))
    study.add_trial(waiting)
    more = a_search(tmp_path, count=2)
    search(more)
    names = [each.name for each in trials_of(study_of(more)) if each.state != "failed"]
    assert len(names) == len(set(names)) == 2


def test_another_corpus_cannot_join(tmp_path: Path) -> None:
    search(a_search(tmp_path, count=1))
    with pytest.raises(RunError, match="its other trials heard other data"):
        search(a_search(tmp_path, count=2, digest="other data"))


def test_searches_within_other_budgets_are_other_studies_of_the_same_task(tmp_path: Path) -> None:
    one = a_search(tmp_path)
    other = Search(**{**vars(one), "budget": Budget(macs=9_000)})
    assert one.study_name != other.study_name
    assert one.task == other.task
    assert Search(**{**vars(one), "trials": 99}).study_name == one.study_name


@pytest.mark.parametrize(
    ("url", "message"),
    [("nonsense", "expected a URL such as sqlite:///study.db"), ("dialect://x", "expected a URL such as")],
)
def test_a_url_of_no_database_is_refused(url: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        open_storage(url)


def test_a_database_that_fails_is_one_line_without_its_password(tmp_path: Path) -> None:
    wanted = a_search(tmp_path)
    study_of(wanted)
    (tmp_path / "study.db").write_bytes(b"no database" * 1000)
    with pytest.raises(ProcessLost, match=r"sqlite:///.*study\.db: the database fails") as caught:
        search(wanted)
    assert "\n" not in str(caught.value)
    assert trials.shown("postgresql+psycopg://me:secret@server/db") == "postgresql+psycopg://me:***@server/db"


def test_what_is_drawn_follows_from_the_number_of_the_trial(tmp_path: Path) -> None:
    names = []
    for folder in ("a", "b"):
        wanted = a_search(tmp_path / folder, count=2)
        (tmp_path / folder).mkdir()
        search(wanted)
        names.append([each.name for each in trials_of(study_of(wanted))])
    assert names[0] == names[1]


def test_what_is_drawn_spends_at_least_half_of_the_budget(tmp_path: Path) -> None:
    wanted = a_search(tmp_path, count=3)
    search(wanted)
    assert all(0.5 <= wanted.budget.excess(each.price) <= 1 for each in trials_of(study_of(wanted)))


def test_a_budget_that_nothing_keeps_is_told_with_the_way_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hark.exploring.sampling.MOST_DRAWS", 5)
    wanted = Search(**{**vars(a_search(tmp_path)), "budget": Budget(bytes=10)})
    with pytest.raises(UsageError, match="none of 5 networks drawn is new and within bytes<=10; widen the budget"):
        search(wanted)


def test_values_of_no_network_are_beyond_every_budget() -> None:
    sampler = WithinBudget(SPACE, Budget(macs=20_000), "beep")
    one = create_study().ask(SPACE.distributions()).params
    assert 0 < sampler.share_spent(one)[1] < 1
    assert sampler.share_spent({**one, "stride_ms": 10_000}) == ("", float("inf"))
    assert price_of(SPACE.candidate(one), "beep").macs == round(20_000 * sampler.share_spent(one)[1])
