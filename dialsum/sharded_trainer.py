"""The trainer of a sharded model; see sharding."""

from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from transformers.trainer import OPTIMIZER_NAME, SCHEDULER_NAME

from dialsum.callbacks import NumbersCallback
from dialsum.config import RunConfig
from dialsum.device import precision_of
from dialsum.metrics import RougeScorer
from dialsum.preparation import Prepared
from dialsum.ranks import Ranks
from dialsum.run_folder import RunFolder
from dialsum.sharding import check_divisible, divided_state, shard, whole_state, whole_weights
from dialsum.summarizer_trainer import SummarizerTrainer

if TYPE_CHECKING:
    from torch import Tensor, nn


class ShardedTrainer(SummarizerTrainer):
    """SummarizerTrainer for a sharded model.

    transformers can shard models, but only through accelerate on accelerators (accelerate 1.15 silently skips its FSDP
    plugin on CPUs), or while loading, without checkpoints to resume from. So this class shards the model itself, marks
    it as sharded for transformers, and reads and writes the state.
    """

    def __init__(
        self,
        config: RunConfig,
        prepared: Prepared,
        folder: RunFolder,
        scorer: RougeScorer,
        numbers: NumbersCallback,
        ranks: Ranks,
    ) -> None:
        self._precision = precision_of(config.precision, prepared.architecture)
        check_divisible(ranks.size, self._precision)
        super().__init__(config, prepared, folder, scorer, numbers, ranks)
        self.is_distributed_loading_by_transformers = True  # accelerate must not put it into DDP

    def weights(self) -> "dict[str, Tensor] | None":
        """Gathers all weights on the first process's host; a collective call."""
        return whole_weights(self.model, keep=self._ranks.is_first)

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Writes the whole model; see Trainer.save_model."""
        del _internal_call
        weights = self.weights()
        if self._ranks.is_first:
            self._save(output_dir, state_dict=weights)

    def _move_model_to_device(self, model: "nn.Module", device: torch.device) -> None:
        """Does nothing: the whole model might not fit on the device before sharding."""

    def _prepare_for_training(self, *args: object) -> object:
        """Shards the model, after its weights are loaded and before its optimizer is built."""
        shard(self.model, self.args.device.type, self._precision)
        return super()._prepare_for_training(*args)

    def _defer_fsdp_gradient_reduction(self) -> AbstractContextManager[None]:
        """Never defers: each process would hold all gradients between micro-batches."""
        return nullcontext()

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        assert self.optimizer is not None
        state = whole_state(self.optimizer.state_dict(), keep=self._ranks.is_first)
        if self._ranks.is_first:
            torch.save(state, Path(output_dir) / OPTIMIZER_NAME)
            torch.save(self.lr_scheduler.state_dict(), Path(output_dir) / SCHEDULER_NAME)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is None:
            return
        assert self.optimizer is not None
        state = torch.load(Path(checkpoint) / OPTIMIZER_NAME, map_location="cpu", weights_only=True, mmap=True)
        parameters = [parameter for group in self.optimizer.param_groups for parameter in group["params"]]
        self.optimizer.load_state_dict(divided_state(state, parameters))
        self.lr_scheduler.load_state_dict(torch.load(Path(checkpoint) / SCHEDULER_NAME, weights_only=True))
