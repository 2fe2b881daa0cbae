"""Optuna's sampler, kept within the budget: what costs too much is drawn again, before it costs a trial."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from typing import Any

from optuna.distributions import BaseDistribution
from optuna.exceptions import ExperimentalWarning
from optuna.samplers import BaseSampler, TPESampler
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from hark.errors import ConfigError, ModelError, UsageError
from hark.exploring.budget import Budget, Price
from hark.exploring.candidate import Candidate
from hark.exploring.pricing import price_of
from hark.exploring.space import Space, Values
from hark.sound.augmentation import generator

MOST_DRAWS = 3_000
FIRST_TRIALS = 20
"""Drawn at random, before there is anything to learn from."""


class WithinBudget(BaseSampler):
    """Tree-structured Parzen estimators (Bergstra et al. 2011) over whole candidates, each priced when drawn.

    What is drawn follows from the number of the trial and the trials before it: processes share no generator.
    """

    def __init__(self, space: Space, budget: Budget, keyword: str, *, seed: int = 0) -> None:
        self.space = space
        self.budget = budget
        self.keyword = keyword
        self.seed = seed

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """All of the space at once."""
        return self.space.distributions()

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """The values of a candidate that is within the budget and was not tried yet.

        Raises:
            UsageError: thousands were drawn, and none is.
        """
        inner = _estimators(int(generator(self.seed, 0, trial.number).integers(2**32)))
        tried = {each.user_attrs.get("name") for each in study.get_trials(deepcopy=False) if not _failed(each)}

        def draw() -> dict[str, Any]:
            values = inner.sample_relative(study, trial, search_space)
            return values or {
                name: inner.sample_independent(study, trial, name, distribution)
                for name, distribution in search_space.items()
            }

        return self._first_within(draw, tried)

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """Never asked for: all is drawn at once."""
        raise UsageError(f"{param_name} is no part of the space")

    def priced(self, values: Values) -> tuple[Candidate, Price] | None:
        """The candidate of some values and its price; None where there is no such network."""
        try:
            candidate = self.space.candidate(values)
            return candidate, price_of(candidate, self.keyword)
        except (ConfigError, ModelError):
            return None

    def _first_within(self, draw: Callable[[], dict[str, Any]], tried: set[Any]) -> dict[str, Any]:
        nearest: Price | None = None
        for _ in range(MOST_DRAWS):
            values = draw()
            found = self.priced(values)
            if found is None:
                continue
            candidate, price = found
            if self.budget.admits(price) and candidate.name not in tried:
                return values
            if nearest is None or self.budget.excess(price) < self.budget.excess(nearest):
                nearest = price
        raise UsageError(
            f"none of {MOST_DRAWS:,} networks drawn is new and within {self.budget}; "
            f"the nearest has {_told(nearest)}; widen the budget, or the space with --space"
        )


def _estimators(seed: int) -> TPESampler:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        return TPESampler(seed=seed, n_startup_trials=FIRST_TRIALS, multivariate=True, constant_liar=True)


def _failed(trial: FrozenTrial) -> bool:
    return trial.state == TrialState.FAIL


def _told(price: Price | None) -> str:
    return (
        "no price at all"
        if price is None
        else ", ".join(f"{name} {cost:,}" for name, cost in _costs(price).items())
    )


def _costs(price: Price) -> Mapping[str, int]:
    return vars(price)
