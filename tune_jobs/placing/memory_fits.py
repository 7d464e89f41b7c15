"""How a configuration fits a GPU model: as configured, in smaller pieces, or divided among several cards."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from cluster.estimator.estimate import Estimator, MemoryEstimate
from cluster.estimator.evaluation_batches import with_evaluation_batches
from cluster.estimator.gpu_profile import GpuProfile, find_gpu, gpu_of_size
from cluster.estimator.memory_plan import NoPlan, divisors
from cluster.estimator.planning import plan_request
from cluster.estimator.request import MemoryRequest
from cluster.machines.hardware import Pool
from cluster.scheduling.shares import UNITS, Share
from dialsum.config import RunConfig
from tune_jobs.placing.memory_requests import open_batches, precision_on, request_of
from tune_jobs.placing.ranks import divided
from tuning_common.errors import RequestError

_OFTEN_TOGETHER = (2, 4, 8)  # cards of one model in machines that can be had


@dataclass(frozen=True, kw_only=True)
class MemoryFit:
    """How one configuration runs on one GPU model.

    Attributes:
        request: The memory request that was estimated; its ranks are the cards that the run takes.
        estimate: Of each of these cards.
        reason: Why it runs in this shape, for people.
    """

    request: MemoryRequest
    estimate: MemoryEstimate
    reason: str

    @property
    def cards(self) -> int:
        """Cards that it takes."""
        return self.request.ranks


@dataclass(frozen=True, kw_only=True)
class MemoryFits:
    """Finds how configurations fit GPU models.

    Attributes:
        estimator: Predicts device bytes.
        share: Part of a card that every trial gets; "auto" follows the estimate, and takes several cards where one is
            too small.
        cards: Whole cards that each trial was given.
        spread: Whether several cards may lie in several machines.
    """

    estimator: Estimator
    share: Literal["auto"] | float = "auto"
    cards: int = 1
    spread: bool = False

    def whole(self, config: RunConfig, pool: Pool) -> MemoryFit | NoPlan:
        """Returns how a run fits with the whole model on each card that its trial was given, or why it does not.

        Args:
            config: The run; with `fsdp` it is divided among the cards that it was given.
            pool: The GPU model.

        Raises:
            RequestError: When the configuration cannot be run on any card.
        """
        return self._fit(config, pool, self.cards)

    def divided(self, config: RunConfig, pool: Pool, least_bytes: int = 0) -> MemoryFit | None:
        """Returns how a run fits with its model divided among the cards that it was given, or as few as will do.

        Args:
            config: The run.
            pool: The GPU model.
            least_bytes: What its cards must give together, also where the estimate is smaller.

        Returns:
            None where it does not, and where the run cannot be divided (see RunConfig.fsdp).
        """
        most = pool.cards if self.spread else max(pool.node_cards)
        return self._divided(config, pool, self._numbers(config, most), least_bytes)

    def more_cards(self, config: RunConfig, pool: Pool, least_bytes: int = 0) -> str:
        """Says how many cards in one machine would do where all that are there do not; empty where none would."""
        if self.share != "auto" or self.cards > 1:
            return ""
        numbers = [cards for cards in _OFTEN_TOGETHER if config.batch_size % cards == 0]
        found = self._divided(config, pool, numbers, least_bytes)
        return "" if found is None else f"{found.cards} x {pool.model} in one machine"

    def needed_bytes(self, fit: MemoryFit, pool: Pool, least_bytes: int = 0) -> int:
        """Returns what a run needs of each of its cards."""
        least = -(-least_bytes // fit.cards)
        if self.share == "auto" or fit.cards > 1:
            return max(fit.estimate.upper_bytes, least)
        return max(self._budget_bytes(pool), least)  # the whole of the fixed share, so that it is what placement gives

    def _numbers(self, config: RunConfig, most: int) -> list[int]:
        """Numbers of cards among which a trial may be divided, the fewest first."""
        if self.cards > 1:
            return [self.cards]
        return [cards for cards in divisors(config.batch_size) if 2 <= cards <= most] if self.share == "auto" else []

    def _divided(self, config: RunConfig, pool: Pool, numbers: Sequence[int], least_bytes: int) -> MemoryFit | None:
        if precision_on(profile_of(pool), config, "") == "fp16":
            return None
        for cards in numbers:
            try:
                fit = self._fit(config.with_changes({"fsdp": True}), pool, cards)
            except RequestError:
                return None
            if isinstance(fit, MemoryFit) and self.needed_bytes(fit, pool, least_bytes) <= pool.usable_bytes:
                return fit
        return None

    def _fit(self, config: RunConfig, pool: Pool, cards: int) -> MemoryFit | NoPlan:
        """As configured where that fits, else planned: smaller micro-batches, then checkpointing.

        Evaluation batches that the configuration leaves open are then chosen, as far as they fit too.
        """
        fit = self._planned(config, pool, cards)
        if isinstance(fit, NoPlan):
            return fit
        request = with_evaluation_batches(self.estimator, fit.request, open_batches(config))
        estimate = fit.estimate if request == fit.request else self.estimator.estimate(request)
        if estimate.upper_bytes > max(self._budget_bytes(pool), fit.estimate.upper_bytes):
            return fit
        return replace(fit, request=request, estimate=estimate)

    def _planned(self, config: RunConfig, pool: Pool, cards: int) -> MemoryFit | NoPlan:
        request = request_of(divided(config, cards), profile_of(pool), ranks=cards)
        budget_bytes = self._budget_bytes(pool)
        among = f", divided among {cards} cards" if config.fsdp else ""
        estimate = self.estimator.estimate(request)
        if estimate.upper_bytes <= budget_bytes:
            return MemoryFit(request=request, estimate=estimate, reason=f"as configured{among}")
        checkpointing = (True,) if config.gradient_checkpointing else (False, True)
        plan = plan_request(self.estimator, request, budget_bytes, checkpointing=checkpointing, confirm=True)
        if isinstance(plan, NoPlan):
            return plan
        planned = replace(
            request,
            gradient_accumulation_steps=plan.accumulation,
            gradient_checkpointing=plan.gradient_checkpointing,
        )
        return MemoryFit(request=planned, estimate=self.estimator.estimate(planned), reason=f"{plan.reason}{among}")

    def _budget_bytes(self, pool: Pool) -> int:
        if self.share == "auto" or self.share >= 1:
            return pool.usable_bytes
        return Share(units=max(1, round(self.share * UNITS))).cap_bytes(pool.usable_bytes)


def profile_of(pool: Pool) -> GpuProfile:
    """Finds the profile of a pool's GPU model; a card that is known only by its size gets that of its size."""
    try:
        found = find_gpu(pool.model.replace("-", " "), near_bytes=pool.total_bytes)
        return replace(found, total_bytes=pool.total_bytes)
    except RequestError:
        return gpu_of_size(pool.total_bytes)
