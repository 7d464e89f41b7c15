"""An estimator of which a test knows every byte."""

import math

from cluster.estimator.calibration import Margin
from cluster.estimator.estimate import Estimator, MemoryEstimate, ModelSize
from cluster.estimator.request import MemoryRequest
from cluster.estimator.step_seconds import StepSeconds

GIB = 2**30


class LinearEstimator(Estimator):
    """4 GiB for the model and as much again for 8 samples of 512 tokens; a quarter of that with checkpointing.

    On each card; of a divided model each holds its part, and gathers half a GiB.
    """

    def __init__(self) -> None:
        """Needs no templates."""

    def takes_any_size(self, request: MemoryRequest) -> bool:
        del request
        return False

    def upper_bytes(self, request: MemoryRequest) -> int:
        length = request.encoder_max_len / 512
        factor = 0.25 if request.gradient_checkpointing else 1.0
        model = 4 if request.sharding is None else 4 / request.ranks + 0.5
        return math.ceil((model + request.micro_batch * length * factor / 2) * GIB)

    def estimate(self, request: MemoryRequest) -> MemoryEstimate:
        upper = self.upper_bytes(request)
        return MemoryEstimate(
            train_allocated_bytes=upper,
            train_reserved_bytes=upper,
            evaluate_allocated_bytes=0,
            generate_allocated_bytes=0,
            generate_reserved_bytes=0,
            context_bytes=GIB // 2,
            device_bytes=upper,
            upper_bytes=upper,
            margin=Margin(fraction=0.0, count=0, basis="made up"),
            peak_phase="train/backward",
            terms={"activations": upper},
            model_parameters=1,
            operations=1,
            gpu=request.gpu,
            gpu_fraction=upper / request.gpu.usable_bytes,
            template="made by hand",
            warnings=(),
        )

    def seconds(self, request: MemoryRequest) -> StepSeconds | None:
        return None

    def model_size(self, request: MemoryRequest) -> ModelSize:
        return ModelSize(parameters=1_000_000, operations=100)
