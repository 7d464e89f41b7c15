"""The folder of one run and its files.

config.yaml metrics.json training.log predictions.jsonl [test_predictions.jsonl submission.csv] models/best_model/
"""

import json
import logging
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from dialsum.config import RunConfig
from dialsum.data import Example
from dialsum.metrics import ScorerIdentity
from tuning_common.files import open_to_append, write_json, write_text
from tuning_common.strict import dump_yaml

BEST_FILE = "best.json"  # beside the weights: the best model's metrics
CHECKPOINTS = "checkpoint-*"


@dataclass(frozen=True)
class RunFolder:
    """Files of a run.

    Attributes:
        path: The folder; created when needed.
    """

    path: Path

    @property
    def best_model(self) -> Path:
        """Folder of the best model and its tokenizer, for transformers' from_pretrained."""
        return self.path / "models" / "best_model"

    def begin(self, config: RunConfig, *, resumed: bool) -> None:
        """Writes the configuration; a new run removes the best model of an earlier one, a resumed run keeps it."""
        if not resumed:
            shutil.rmtree(self.path / "models", ignore_errors=True)
        write_text(self.path / "config.yaml", dump_yaml(config.to_dict()))

    def keep_best(
        self,
        save: Callable[[str], object],
        numbers: Mapping[str, float],
        examples: Sequence[Example],
        texts: Sequence[str],
    ) -> None:
        """Replaces the best model and its summaries atomically.

        Args:
            save: Writes model and tokenizer to a given folder.
            numbers: best/* of this model.
            examples: The dev dialogues.
            texts: The model's summaries of them.
        """
        folder = self.best_model
        folder.parent.mkdir(parents=True, exist_ok=True)
        fresh, old = folder.with_name(".best_model.new"), folder.with_name(".best_model.old")
        for leftover in (fresh, old):
            shutil.rmtree(leftover, ignore_errors=True)
        save(str(fresh))
        (fresh / "training_args.bin").unlink(missing_ok=True)  # a pickle that no loader needs
        write_json(fresh / BEST_FILE, dict(numbers))
        if folder.exists():
            folder.rename(old)
        fresh.rename(folder)
        shutil.rmtree(old, ignore_errors=True)
        write_predictions(self.path / "predictions.jsonl", examples, texts)

    def best(self) -> dict[str, float]:
        """Returns the best model's numbers (best/*); none where there is no model."""
        path = self.best_model / BEST_FILE
        if not path.exists():
            return {}
        numbers: dict[str, float] = json.loads(path.read_text(encoding="utf-8"))
        return numbers

    def write_metrics(
        self, history: Sequence[Mapping[str, float]], scorer: ScorerIdentity, test: Mapping[str, float] | None = None
    ) -> None:
        """Writes metrics.json: the last, the best and all evaluations, the scorer, test scores.

        The best scores stand at the top too, flat (`best_rouge1_f1`), as scripts that compare runs read them.
        """
        best = self.best()
        content: dict[str, object] = {"last": history[-1], "best": best, "history": history}
        content |= {name.replace("/", "_"): value for name, value in best.items() if name != "best/global_step"}
        content["scorer"] = asdict(scorer)
        if test is not None:
            content["test"] = test
        write_json(self.path / "metrics.json", content)

    def drop_checkpoints(self) -> None:
        """Removes the checkpoints, which a finished run does not need."""
        for checkpoint in self.path.glob(CHECKPOINTS):
            shutil.rmtree(checkpoint)

    @contextmanager
    def log(self) -> Iterator[None]:
        """Writes this package's log to training.log during a run; a resumed run appends."""
        root = logging.getLogger("dialsum")
        stream = os.fdopen(open_to_append(self.path / "training.log"), "a", encoding="utf-8")
        handler = logging.StreamHandler(stream)
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        level = root.level
        root.addHandler(handler)
        root.setLevel(logging.INFO)
        try:
            yield
        finally:
            root.removeHandler(handler)
            root.setLevel(level)
            handler.close()
            stream.close()


def write_predictions(path: Path, examples: Sequence[Example], texts: Sequence[str]) -> None:
    """Writes one JSON line per dialogue: fname, dialogue, references, prediction."""
    lines = [
        json.dumps(
            {"fname": e.fname, "dialogue": e.dialogue, "references": list(e.summaries), "prediction": text},
            ensure_ascii=False,
        )
        for e, text in zip(examples, texts, strict=True)
    ]
    write_text(path, "".join(line + "\n" for line in lines))
