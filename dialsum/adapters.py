"""LoRA adapters by peft: small trained matrices beside a frozen base model (Hu et al. 2021).

An adapter's folder has `adapter_config.json` (with the base's id and revision) and `adapter_model.safetensors`, as peft
reads them; beside them lies the base's config.json, so that its architecture is known without the base.
"""

import json
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from dialsum.config import RunConfig
from tuning_common.errors import RequestError

if TYPE_CHECKING:
    from peft import PeftModel
    from torch import Tensor, nn
    from transformers import PreTrainedModel

TRACED_DROPOUT = 0.1  # only whether there is dropout changes memory
ADAPTER_FILE = "adapter_config.json"


def base_of(model: str) -> str | None:
    """Returns the base of an adapter's folder, with its revision (owner/model@revision); None for any other model.

    Raises:
        RequestError: When the folder's adapter is of another type or names no base.
    """
    path = Path(model) / ADAPTER_FILE
    if not path.is_file():
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RequestError(f"{path}: cannot be read: {error}") from None
    base = content.get("base_model_name_or_path") if isinstance(content, dict) else None
    if not base or content.get("peft_type") != "LORA":
        raise RequestError(f"{path}: expected peft_type LORA and base_model_name_or_path, so it cannot be loaded")
    return f"{base}@{content['revision']}" if content.get("revision") else str(base)


def memory_settings(config: RunConfig) -> dict[str, object] | None:
    """Returns what an adapter's memory depends on, as fields of RunConfig; None without an adapter.

    A rank that is neither 1, 2, 4 nor a multiple of 8 is rounded up to one: the estimate is a bound then, and a search
    over all ranks to 64 traces ten adapters.

    >>> lora = {"model": "kobart", "adapter_type": "lora"}
    >>> one, other = (RunConfig.from_dict(lora | {"adapter_alpha": alpha}) for alpha in (8, 64))
    >>> memory_settings(one) == memory_settings(other)
    True
    """
    if config.adapter_type is None:
        return None
    targets = config.adapter_target_modules
    return {
        "adapter_type": config.adapter_type,
        "adapter_r": _traced_rank(config.adapter_r),
        "adapter_dropout": TRACED_DROPOUT if config.adapter_dropout else 0.0,
        "adapter_target_modules": targets if targets == "auto" else sorted(targets),
        "adapter_modules_to_save": sorted(config.adapter_modules_to_save),
    }


def _traced_rank(rank: int) -> int:
    """Rounds a rank up.

    >>> [_traced_rank(rank) for rank in (1, 3, 5, 16, 17)]
    [1, 4, 8, 16, 24]
    """
    return next((small for small in (1, 2, 4) if rank <= small), -(-rank // 8) * 8)


def with_adapter(base: "PreTrainedModel", config: RunConfig, revision: str | None = None) -> "PeftModel":
    """Freezes a model and adds a new adapter in fp32; the memory tracer calls it too.

    Args:
        base: The model; its parameters may be on the meta device.
        config: Rank, scale and modules of the adapter.
        revision: Revision of the base, for the adapter's folder.

    Raises:
        RequestError: When the model has no such modules.
    """
    from peft import LoraConfig, get_peft_model

    targets = config.adapter_target_modules
    settings = LoraConfig(
        task_type="SEQ_2_SEQ_LM" if base.config.is_encoder_decoder else "CAUSAL_LM",
        r=config.adapter_r,
        lora_alpha=config.adapter_alpha,
        lora_dropout=config.adapter_dropout,
        target_modules="all-linear" if targets == "auto" else list(targets),
        modules_to_save=list(config.adapter_modules_to_save) or None,
    )
    _check_names(base, config)
    with _quiet():
        model = get_peft_model(base, settings, revision=revision)
    for parameter in model.parameters():
        if parameter.requires_grad:  # modules_to_save are copies in the base's format
            parameter.data = parameter.data.float()
    return model


def load_adapter(base: "PreTrainedModel", folder: Path, config: RunConfig) -> "PeftModel":
    """Adds a saved adapter to its base; it can be trained further.

    Raises:
        RequestError: When the run asks for another rank or scale.
    """
    from peft import PeftModel

    with _quiet():
        model = PeftModel.from_pretrained(base, str(folder), is_trainable=True)
    stored = model.peft_config["default"]
    found, asked = (stored.r, stored.lora_alpha), (config.adapter_r, config.adapter_alpha)
    if config.adapter_type is not None and found != asked:
        raise RequestError(
            f"{folder}: its adapter has r {found[0]} and alpha {found[1]}, but the run has r {asked[0]} and alpha"
            f" {asked[1]}; write those, or take the base {base_of(str(folder))} as model"
        )
    return model


def save_adapter(model: "PeftModel", folder: Path, weights: "Mapping[str, Tensor] | None" = None) -> None:
    """Writes the adapter without its base, and the base's configuration; None for weights: the model's own."""
    # The embedding has its own size still; peft would ask the hub for that.
    model.save_pretrained(str(folder), save_embedding_layers=False, state_dict=weights)
    model.get_base_model().config.save_pretrained(str(folder))
    (folder / "README.md").unlink(missing_ok=True)  # peft's template


def without_adapter(model: "PreTrainedModel") -> "PreTrainedModel":
    """Returns a model whose forward pass generation calls: the one inside of an adapter's wrapper, or itself."""
    return model.get_base_model() if has_adapter(model) else model


def has_adapter(model: "nn.Module") -> bool:
    """Returns whether a model has an adapter."""
    return hasattr(model, "peft_config")


def _check_names(base: "PreTrainedModel", config: RunConfig) -> None:
    """Refuses names of modules that the model does not have; peft accepts them where another name is found."""
    names = {name for name, _ in base.named_modules() if name}
    given = {"adapter_modules_to_save": config.adapter_modules_to_save}
    if config.adapter_target_modules != "auto":
        given["adapter_target_modules"] = config.adapter_target_modules
    problems = [
        f"{field}: {type(base).__name__} has no module {wanted!r}"
        for field, asked in given.items()
        for wanted in asked
        if not any(name == wanted or name.endswith(f".{wanted}") for name in names)
    ]
    if problems:
        import torch
        from transformers.pytorch_utils import Conv1D

        found = {
            name.rpartition(".")[2] for name, one in base.named_modules() if isinstance(one, (torch.nn.Linear, Conv1D))
        }
        raise RequestError("the adapter cannot be added", [*problems, f"its linear layers: {', '.join(sorted(found))}"])


@contextmanager
def _quiet() -> Iterator[None]:
    """Hides that peft 0.21 reads a name of transformers that will go."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated")
        yield
