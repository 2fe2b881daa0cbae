"""Trials in a database that any number of processes and machines share: none is stuck or lost when one is killed.

Who works on a trial lets its heart beat in the database. One whose heart has stopped is marked as failed by
whoever sees it first, and waits again, its values unchanged; its runs are found by their names and go on.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import Any

import optuna
from optuna.exceptions import DuplicatedStudyError, ExperimentalWarning, StorageInternalError
from optuna.pruners import SuccessiveHalvingPruner
from optuna.samplers import BaseSampler
from optuna.storages import RDBStorage, fail_stale_trials
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState, create_trial

from hark.errors import ConfigError, ProcessLost
from hark.exploring.budget import Price
from hark.exploring.front import Tried

HEARTBEAT_S, GRACE_S = 10, 60
PATIENCE_S = 60
"""How long one process waits for another to let go of a SQLite file."""
HALVING = 2
"""After one, two and four folds the better half goes on (Li et al. 2020, arXiv 1810.05934)."""

_STATES = {
    TrialState.WAITING: "waiting",
    TrialState.RUNNING: "running",
    TrialState.PRUNED: "stopped",
    TrialState.COMPLETE: "done",
    TrialState.FAIL: "failed",
}
FIXED = "fixed_params"
"""Where Optuna keeps what an enqueued trial is to be like."""
BEGUN, FAULT, AGAIN = "begun", "fault", "again"
"""What is noted of a trial: that its heart beats, why it failed, and which trial it takes up again."""


@contextmanager
def database_told(url: str) -> Iterator[None]:
    """Around all that asks the database: what it raises becomes an error of ours.

    Raises:
        ProcessLost: it cannot be reached.
    """
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except (StorageInternalError, SQLAlchemyError) as error:
        reason = " ".join(str(error.__cause__ or error).split())[:200]
        raise ProcessLost(f"{shown(url)}: the database fails ({reason}); run the same command again") from error


def open_storage(url: str) -> RDBStorage:
    """The database at an SQLAlchemy URL.

    Raises:
        ConfigError: there is no such kind of database, or what talks to it is not installed.
    """
    from sqlalchemy.exc import ArgumentError, NoSuchModuleError

    optuna.logging.set_verbosity(logging.ERROR)
    engine = {"connect_args": {"timeout": PATIENCE_S}} if url.startswith("sqlite") else {}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            return RDBStorage(url, engine, heartbeat_interval=HEARTBEAT_S, grace_period=GRACE_S)
    except (ArgumentError, NoSuchModuleError, ImportError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ConfigError(
            f"--storage {shown(url)}: {reason}; expected a URL such as sqlite:///study.db or "
            "postgresql+psycopg://user@host/study, its driver installed"
        ) from error


def open_study(
    storage: RDBStorage,
    name: str,
    about: Mapping[str, Any],
    sampler: BaseSampler,
    *,
    begin_with: Sequence[Mapping[str, Any]] = (),
) -> Study:
    """Join the study of a name; whoever comes first makes it.

    Args:
        storage: where it is.
        name: of the study.
        about: what is noted of it.
        sampler: what draws for this process.
        begin_with: what the first trials are to be like; the sampler draws what these do not say.
    """
    pruner = SuccessiveHalvingPruner(min_resource=1, reduction_factor=HALVING)
    try:
        study = optuna.create_study(storage=storage, study_name=name, sampler=sampler, pruner=pruner)
    except DuplicatedStudyError:
        return optuna.load_study(storage=storage, study_name=name, sampler=sampler, pruner=pruner)
    for key, value in about.items():
        study.set_user_attr(key, value)
    for values in begin_with:
        study.enqueue_trial(dict(values))
    return study


def take_up_lost(study: Study) -> None:
    """Have every trial wait again that was running, and whose process is no more.

    A death at any place in here is made good by the next call.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        fail_stale_trials(study)
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        if _died_before_its_first_beat(trial):
            study.tell(trial.number, state=TrialState.FAIL, skip_if_finished=True)
    for trial in study.get_trials(deepcopy=False, states=(TrialState.FAIL,)):
        if FAULT not in trial.user_attrs:
            put_back(study, trial)


def put_back(study: Study, trial: FrozenTrial) -> None:
    """Have a trial's values wait to be tried again, unless they do; a trial that has none yet is let go."""
    fixed = {FIXED: trial.system_attrs[FIXED]} if FIXED in trial.system_attrs else {}
    is_back = any(each.user_attrs.get(AGAIN) == trial.number for each in study.get_trials(deepcopy=False))
    if is_back or not (trial.params or fixed):
        return
    study.add_trial(
        create_trial(
            state=TrialState.WAITING,
            params=trial.params,
            distributions=trial.distributions,
            user_attrs={AGAIN: trial.number},
            system_attrs=fixed,
        )
    )


def trials_of(study: Study) -> list[Tried]:
    """All trials of which it is known what they try."""
    budget = str(study.user_attrs.get("budget", ""))
    trials = study.get_trials(deepcopy=False)
    again = {trial.user_attrs.get(AGAIN) for trial in trials}
    return [_tried(trial, budget) for trial in trials if "name" in trial.user_attrs and trial.number not in again]


def _tried(trial: FrozenTrial, budget: str) -> Tried:
    attrs = trial.user_attrs
    return Tried(
        number=trial.number,
        name=attrs["name"],
        in_words=attrs["in_words"],
        budget=budget,
        state=_STATES[trial.state],  # type: ignore[arg-type]
        price=Price(**attrs["price"]),
        engine_us=float(attrs.get("engine_us", 0.0)),
        by_fold=tuple(attrs.get("by_fold", ())),
    )


def _died_before_its_first_beat(trial: FrozenTrial) -> bool:
    begun = trial.datetime_start
    return (
        BEGUN not in trial.user_attrs and begun is not None and datetime.now() - begun > timedelta(seconds=GRACE_S)
    )


def shown(url: str) -> str:
    """A URL for a message, without the password that may be in it."""
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        return make_url(url).render_as_string(hide_password=True)
    except (ArgumentError, ValueError):
        return repr(url)
