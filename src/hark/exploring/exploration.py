"""The whole way from a budget to confirmed models: processes search, one watches, processes confirm."""

from __future__ import annotations

import shutil
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from optuna.storages import RDBStorage
from optuna.study import Study, get_all_study_summaries, load_study
from optuna.trial import TrialState

from hark.errors import ProcessLost
from hark.exploring.budget import Quality
from hark.exploring.candidate import Candidate
from hark.exploring.confirming import confirm, write_recipe
from hark.exploring.front import Found, Tried, chosen_of, front_of_trials
from hark.exploring.searching import Search, is_searched, search
from hark.exploring.trials import database_told, open_storage, trials_of
from hark.files import make_folder
from hark.learning.lessons import FOLDER as LESSONS
from hark.notices import say
from hark.recipes.side_by_side import Deed, do_all

LOOK_EVERY_S = 2.0
CHOSEN = "chosen"


@dataclass(frozen=True, kw_only=True)
class Exploration:
    """A search, and what is to become of its front."""

    search: Search
    quality: Quality | None = None
    """What is good enough; of what is, the cheapest are confirmed too."""
    confirmed: int = 4
    """How many of the front are made anew and judged on the test parts."""
    jobs: int = 1
    """Processes of this machine."""


def explore(wanted: Exploration, *, show: Callable[[Found], object]) -> Found:
    """Search and confirm; the same call again, here or elsewhere, joins or goes on.

    Args:
        wanted: what is to be found.
        show: called with what is known every other second.

    Raises:
        HarkError: what has stopped one of the processes; the others have gone on to the end.
    """
    workshop = wanted.search.workshop
    make_folder(workshop.out)
    with database_told(wanted.search.storage):
        storage = open_storage(wanted.search.storage)
        study = wanted.search.open(storage)
        _have_searched(wanted, study, lambda: show(look(wanted, storage, study)))
        candidates = _chosen(study, wanted)
        for candidate in candidates:
            write_recipe(workshop, candidate)
        found = look(wanted, storage, study)
        show(found)
        if candidates:
            deeds = _deeds(wanted, "confirmation", confirm, workshop, candidates)
            do_all(deeds, jobs=wanted.jobs, meanwhile=lambda: show(found), every_s=LOOK_EVERY_S)
        if not study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            _remove_lessons(wanted)
        return found


def look(wanted: Exploration, storage: RDBStorage, study: Study) -> Found:
    """What is known by now."""
    search, attrs = wanted.search, study.user_attrs
    folds = search.workshop.folds
    return Found(
        keyword=search.workshop.source.keyword,
        folds=len(folds),
        budget=str(search.budget),
        quality=wanted.quality,
        wanted=search.trials,
        tried=tuple(trials_of(study)),
        others=tuple(_others(search, storage)),
        base_by_fold=tuple(attrs[f"base {fold}"] for fold in folds if f"base {fold}" in attrs),
        chosen=tuple(attrs.get(CHOSEN, ())),
    )


def _others(search: Search, storage: RDBStorage) -> Iterator[Tried]:
    """The trials of searches within other budgets whose qualities can be compared."""
    for summary in get_all_study_summaries(storage):
        if summary.user_attrs.get("task") == search.task and summary.study_name != search.study_name:
            yield from trials_of(load_study(storage=storage, study_name=summary.study_name))


def _have_searched(wanted: Exploration, study: Study, watch: Callable[[], object]) -> None:
    """Have processes search; one that has died is no harm where the others have gone to the end without it."""
    deeds = _deeds(wanted, "search", search, wanted.search)
    try:
        do_all(deeds, jobs=wanted.jobs, meanwhile=watch, every_s=LOOK_EVERY_S)
    except ProcessLost as error:
        if not is_searched(study, wanted.search):
            raise
        say(f"{error}; the others have gone on to the end without it")


def _deeds(wanted: Exploration, name: str, function: Callable[..., object], *arguments: object) -> list[Deed]:
    folder, host = wanted.search.workshop.out / "workers", socket.gethostname()
    return [
        Deed(f"{name} {number}", function, arguments, output=folder / f"{host}-{number}.log")
        for number in range(wanted.jobs)
    ]


def _chosen(study: Study, wanted: Exploration) -> list[Candidate]:
    """Those that are confirmed, the same for all who have joined: whoever comes first has written them down."""
    attrs = study.user_attrs
    if CHOSEN not in attrs:
        folds = wanted.search.workshop.folds
        base = sum(attrs.get(f"base {fold}", 0.0) for fold in folds) / len(folds)
        front = front_of_trials(trials_of(study))
        few = chosen_of(front, most=wanted.confirmed, quality=wanted.quality, base=base)
        study.set_user_attr(CHOSEN, [each.name for each in few])
    by_name = {trial.user_attrs.get("name"): trial.params for trial in study.get_trials(deepcopy=False)}
    return [wanted.search.space.candidate(by_name[name]) for name in study.user_attrs[CHOSEN]]


def _remove_lessons(wanted: Exploration) -> None:
    """They are gigabytes that nobody needs any more."""
    workshop = wanted.search.workshop
    for fold in workshop.folds:
        shutil.rmtree(workshop.fold_folder(fold) / LESSONS, ignore_errors=True)
