"""What one process of a search does: take a trial, make its candidate fold by fold, say how well it hears."""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.exceptions import TrialPruned, UpdateFinishedTrialError
from optuna.storages import RDBStorage
from optuna.study import Study
from optuna.trial import Trial, TrialState

from hark.errors import Interrupted, ModelError, RunError, VerificationError
from hark.exploring.budget import Budget
from hark.exploring.candidate import Candidate
from hark.exploring.pricing import price_of
from hark.exploring.sampling import WithinBudget
from hark.exploring.space import Space, Value
from hark.exploring.trials import (
    AGAIN,
    BEGUN,
    FAULT,
    database_told,
    open_storage,
    open_study,
    put_back,
    take_up_lost,
)
from hark.exploring.workshop import Workshop, engine_us
from hark.files import digest
from hark.notices import say
from hark.record.interruption import TERMINATED

GLANCE_S = 2.0
TRIED = (TrialState.COMPLETE, TrialState.PRUNED)


@dataclass(frozen=True, kw_only=True)
class Search:
    """What is searched for, and where."""

    workshop: Workshop
    space: Space
    budget: Budget
    trials: int
    """How many candidates are tried, the stopped ones counted."""
    storage: str
    """The database's URL."""
    seed: int = 0

    @property
    def task(self) -> str:
        """Tells what qualities can be compared: one corpus, keyword, cut and set of teachers."""
        source = self.workshop.source
        data = [source.keyword, source.folds, source.split, source.clip_s, source.cut_speech]
        return digest([*data, repr(self.workshop.teachers)])[:8]

    @property
    def study_name(self) -> str:
        """The study that all who search for the same join."""
        return (
            f"{self.workshop.source.keyword} {self.budget} {digest([self.task, self.space.digest, self.seed])[:8]}"
        )

    def open(self, storage: RDBStorage) -> Study:
        """Join the study, or begin it."""
        source = self.workshop.source
        about = {"task": self.task, "budget": str(self.budget), "keyword": source.keyword}
        sampler = WithinBudget(self.space, self.budget, source.keyword, clip_s=source.clip_s, seed=self.seed)
        return open_study(storage, self.study_name, about, sampler, begin_with=self.space.starts())


def search(wanted: Search) -> None:
    """Try candidates until as many were tried as are wanted, together with all who join the study.

    Raises:
        ProcessLost: the database cannot be reached.
        HarkError: what made a candidate impossible to try, beyond its own faults.
    """
    torch.set_num_threads(wanted.workshop.threads)
    with database_told(wanted.storage):
        study = wanted.open(open_storage(wanted.storage))
        while not is_searched(study, wanted):
            take_up_lost(study)
            if _is_wanted(study, wanted):
                _try_one(study, wanted)
            else:
                time.sleep(GLANCE_S)  # others are at the last ones, and may yet die


def is_searched(study: Study, wanted: Search) -> bool:
    """Whether as many candidates were tried as are wanted."""
    return len(study.get_trials(deepcopy=False, states=TRIED)) >= wanted.trials


def _is_wanted(study: Study, wanted: Search) -> bool:
    """Whether there is something to do: a trial that waits, or one that nobody has begun."""
    if study.get_trials(deepcopy=False, states=(TrialState.WAITING,)):
        return True
    return len(study.get_trials(deepcopy=False, states=(*TRIED, TrialState.RUNNING))) < wanted.trials


def _try_one(study: Study, wanted: Search) -> None:
    """Try one candidate, unless others take its trial meanwhile."""
    own: list[BaseException] = []

    def objective(trial: Trial) -> float:
        try:
            return _quality(study, trial, wanted)
        except UpdateFinishedTrialError:
            raise
        except BaseException as error:
            own.append(error)
            raise

    try:
        study.optimize(objective, n_trials=1, catch=(ModelError,))
    except (UpdateFinishedTrialError, ValueError):  # the latter when Optuna is to note the end of what has ended
        if own:
            raise
        say("others had not heard of this process for a minute and took its trial; it goes on with the next")


def _quality(study: Study, trial: Trial, wanted: Search) -> float:
    """The objective: mean over the folds of what the packed model reaches on their validation parts.

    Raises:
        TrialPruned: it is not worth another fold.
        ModelError: the candidate itself is at fault.
    """
    trial.set_user_attr(BEGUN, True)
    try:
        _refuse_a_second_retry(study, trial)
        return _mean_over_folds(study, trial, _candidate(trial, wanted.space), wanted)
    except (TrialPruned, UpdateFinishedTrialError):  # the latter: others have it now
        raise
    except (ModelError, VerificationError) as error:
        trial.set_user_attr(FAULT, str(error)[:500])
        raise
    except BaseException as error:  # no fault of the candidate: a signal, a full disk, a lost device
        put_back(study, study.get_trials(deepcopy=False)[trial.number])
        if isinstance(error, SystemExit):  # which Optuna does not catch, and the trial would seem to run
            raise Interrupted("stopped; the same command goes on from there", TERMINATED - 128) from None
        raise


def _mean_over_folds(study: Study, trial: Trial, candidate: Candidate, wanted: Search) -> float:
    workshop, by_fold = wanted.workshop, list[float]()
    trial.set_user_attr("name", candidate.name)
    trial.set_user_attr("in_words", candidate.in_words)
    trial.set_user_attr("price", vars(price_of(candidate, workshop.source.keyword, clip_s=workshop.source.clip_s)))
    say(f"trial {trial.number}: {candidate.name}: {candidate.in_words}")
    for fold in workshop.folds:
        _require_same_data(study, workshop.task(fold).digest)
        study.set_user_attr(f"base {fold}", workshop.teach(fold))
        model, quality = workshop.try_out(candidate, fold)
        if not by_fold:
            trial.set_user_attr("engine_us", engine_us(model))
        by_fold.append(quality)
        trial.set_user_attr("by_fold", by_fold)
        mean = sum(by_fold) / len(by_fold)
        trial.report(mean, step=fold + 1)
        so_far = f"{1e5 * mean:.2f}e-5 over {fold + 1} of {len(workshop.folds)} folds"
        say(f"trial {trial.number}: {candidate.name}: {so_far}")
        if fold != workshop.folds[-1] and trial.should_prune():
            raise TrialPruned
    return mean


def _candidate(trial: Trial, space: Space) -> Candidate:
    return space.candidate({name: _drawn(trial, name, part) for name, part in space.distributions().items()})


def _drawn(trial: Trial, name: str, part: BaseDistribution) -> Value:
    match part:
        case IntDistribution():
            return trial.suggest_int(name, part.low, part.high, log=part.log)
        case FloatDistribution():
            return trial.suggest_float(name, part.low, part.high, log=part.log)
        case CategoricalDistribution():
            return trial.suggest_categorical(name, part.choices)  # type: ignore[return-value]
        case _:
            raise TypeError(f"{name}: nothing draws from {part}")


def _refuse_a_second_retry(study: Study, trial: Trial) -> None:
    """Two processes that see the same trial die at the same moment both have it wait again.

    Raises:
        ModelError: an earlier trial is the one.
    """
    again = trial.user_attrs.get(AGAIN)
    if again is None:
        return
    first = next(each for each in study.get_trials(deepcopy=False) if each.user_attrs.get(AGAIN) == again)
    if first.number != trial.number:
        raise ModelError(f"tried as trial {first.number}")


def _require_same_data(study: Study, found: str) -> None:
    """The corpus is the same wherever somebody joins.

    Raises:
        RunError: it is another one.
    """
    expected = study.user_attrs.get("data")
    if expected is None:
        study.set_user_attr("data", found)
    elif expected != found:
        raise RunError(
            f"study {study.study_name}: its other trials heard other data ({expected[:8]}, here {found[:8]}); "
            "give all machines the same corpus, or another --storage"
        )
