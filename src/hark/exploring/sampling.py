"""Optuna's sampler, kept within the budget: what costs too much is drawn again, before it costs a trial."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Any

from optuna.distributions import BaseDistribution
from optuna.exceptions import ExperimentalWarning
from optuna.samplers import BaseSampler, TPESampler
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from hark.errors import ConfigError, ModelError, UsageError
from hark.exploring.budget import Budget
from hark.exploring.pricing import counts_too_many, price_of
from hark.exploring.space import Space, Values
from hark.exploring.trials import FIXED
from hark.sound.augmentation import generator

MOST_DRAWS, MOST_DRAWS_OF_A_START = 5_000, 500
FIRST_TRIALS = 20
"""Drawn at random, before there is anything to learn from."""
LEAST_SPENT = 0.5
"""Of the limit that it comes nearest to: a candidate that is far cheaper belongs to a smaller budget."""


class WithinBudget(BaseSampler):
    """Tree-structured Parzen estimators (Bergstra et al. 2011) over whole candidates, each priced when drawn.

    What is drawn follows from the number of the trial and the trials before it: processes share no generator.
    """

    def __init__(self, space: Space, budget: Budget, keyword: str, *, clip_s: float = 1.0, seed: int = 0) -> None:
        self.space = space
        self.budget = budget
        self.keyword = keyword
        self.clip_s = clip_s
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
            ModelError: nothing that begins as the trial is to begin is.
        """
        fixed = {**trial.params, **trial.system_attrs.get(FIXED, {})}  # of a start, or drawn before a death
        inner = _estimators(int(generator(self.seed, 0, trial.number).integers(2**32)))
        tried = {
            each.user_attrs.get("name")
            for each in study.get_trials(deepcopy=False)
            if each.state != TrialState.FAIL
        }

        def draw() -> dict[str, Any]:
            values = inner.sample_relative(study, trial, search_space)
            return values or {
                name: inner.sample_independent(study, trial, name, distribution)
                for name, distribution in search_space.items()
            }

        if not fixed:
            return self._first_within(draw, tried, MOST_DRAWS)
        try:
            return self._first_within(lambda: draw() | fixed, tried, MOST_DRAWS_OF_A_START)
        except UsageError as error:
            raise ModelError(str(error)) from None

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """Never asked for: all is drawn at once."""
        raise UsageError(f"{param_name} is no part of the space")

    def share_spent(self, values: Values) -> tuple[str, float]:
        """The name of a candidate and its worst ratio of a cost to its limit, infinite if it cannot be made."""
        try:
            candidate = self.space.candidate(values)
            if counts_too_many(candidate, self.keyword, self.budget):
                return candidate.name, math.inf
            return candidate.name, self.budget.excess(price_of(candidate, self.keyword, clip_s=self.clip_s))
        except (ConfigError, ModelError):
            return "", math.inf

    def _first_within(self, draw: Callable[[], dict[str, Any]], tried: set[Any], most: int) -> dict[str, Any]:
        cheap: dict[str, Any] | None = None
        for _ in range(most):
            name, spent = self.share_spent(values := draw())
            if spent > 1 or name in tried:
                continue
            if spent >= LEAST_SPENT:
                return values
            cheap = cheap or values
        if cheap is None:
            raise UsageError(
                f"none of {most:,} networks drawn is new and within {self.budget}; "
                "widen the budget, or the space with --space"
            )
        return cheap


def _estimators(seed: int) -> TPESampler:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        return TPESampler(seed=seed, n_startup_trials=FIRST_TRIALS, multivariate=True, constant_liar=True)
