"""The whole way from a budget to confirmed models: processes search, one watches, processes confirm."""

from __future__ import annotations

import shutil
import socket
from collections.abc import Callable
from dataclasses import dataclass

from optuna.storages import RDBStorage
from optuna.study import Study, get_all_study_summaries
from optuna.trial import TrialState

from hark.exploring.budget import Quality
from hark.exploring.candidate import Candidate
from hark.exploring.confirming import confirm, write_recipe
from hark.exploring.front import Found, Tried, chosen_of, front_of_trials
from hark.exploring.searching import Search, search
from hark.exploring.trials import database_told, open_storage, open_study, trials_of
from hark.files import make_folder
from hark.learning.lessons import FOLDER as LESSONS
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
        show: called with what is known whenever that has changed.

    Raises:
        HarkError: what has stopped one of the processes; the others have gone on to the end.
    """
    out = wanted.search.workshop.out
    make_folder(out)
    with database_told(wanted.search.storage):
        storage = open_storage(wanted.search.storage)
        study = wanted.search.open(storage)
        watch = Watch(wanted, storage, study, show)
        do_all(
            _deeds(wanted, "search", search, wanted.search),
            jobs=wanted.jobs,
            meanwhile=watch,
            every_s=LOOK_EVERY_S,
        )
        candidates = _chosen(study, wanted)
        watch()
        if candidates:
            for candidate in candidates:
                write_recipe(wanted.search.workshop, candidate)
            deeds = _deeds(wanted, "confirmation", confirm, wanted.search.workshop, candidates)
            do_all(deeds, jobs=wanted.jobs, meanwhile=watch, every_s=LOOK_EVERY_S)
        if not any(trial.state == TrialState.RUNNING for trial in study.get_trials(deepcopy=False)):
            _remove_lessons(wanted)
        found = watch.look()
        show(found)
        return found


class Watch:
    """Looks at the database, and shows what has changed."""

    def __init__(
        self, wanted: Exploration, storage: RDBStorage, study: Study, show: Callable[[Found], object]
    ) -> None:
        self.wanted = wanted
        self.storage = storage
        self.study = study
        self.show = show
        self._last: Found | None = None

    def __call__(self) -> None:
        """Look, and show what is new."""
        found = self.look()
        if found != self._last:
            self._last = found
            self.show(found)

    def look(self) -> Found:
        """What is known by now."""
        search, attrs = self.wanted.search, self.study.user_attrs
        folds = range(search.workshop.source.folds)
        return Found(
            keyword=search.workshop.source.keyword,
            folds=len(folds),
            budget=str(search.budget),
            quality=self.wanted.quality,
            wanted=search.trials,
            tried=tuple(trials_of(self.study)),
            others=tuple(self._others()),
            base_by_fold=tuple(attrs[f"base {fold}"] for fold in folds if f"base {fold}" in attrs),
            chosen=tuple(attrs.get(CHOSEN, ())),
        )

    def _others(self) -> list[Tried]:
        mine = self.wanted.search
        names = [
            summary.study_name
            for summary in get_all_study_summaries(self.storage)
            if summary.user_attrs.get("task") == mine.task and summary.study_name != mine.study_name
        ]
        return [tried for name in names for tried in trials_of(open_study(self.storage, name, {}))]


def _deeds(wanted: Exploration, name: str, function: Callable[..., object], *arguments: object) -> list[Deed]:
    folder = wanted.search.workshop.out / "workers"
    return [
        Deed(f"{name} {number}", function, arguments, output=folder / f"{socket.gethostname()}-{number}.log")
        for number in range(wanted.jobs)
    ]


def _chosen(study: Study, wanted: Exploration) -> list[Candidate]:
    """Those that are confirmed, the same for all who have joined: whoever comes first has written them down."""
    if CHOSEN not in study.user_attrs:
        tried = trials_of(study)
        attrs = study.user_attrs
        folds = wanted.search.workshop.source.folds
        base = sum(attrs.get(f"base {fold}", 0.0) for fold in range(folds)) / folds
        few = chosen_of(front_of_trials(tried), most=wanted.confirmed, quality=wanted.quality, base=base)
        study.set_user_attr(CHOSEN, [each.name for each in few])
    by_name = {trial.user_attrs.get("name"): trial for trial in study.get_trials(deepcopy=False)}
    return [wanted.search.space.candidate(by_name[name].params) for name in study.user_attrs[CHOSEN]]


def _remove_lessons(wanted: Exploration) -> None:
    """They are gigabytes that nobody needs any more."""
    workshop = wanted.search.workshop
    for fold in range(workshop.source.folds):
        shutil.rmtree(workshop.fold_folder(fold) / LESSONS, ignore_errors=True)
