"""Liger-Kernel's benchmarks of torch's own losses and layers, rewritten for meta tensors.

Each measures a function that is called several times; the gradients of the call before are kept.
"""

import torch
import torch.nn.functional as functional
from torch import Tensor, nn

from benchmarks.external_programs import STEPS
from benchmarks.external_runs import Row
from cluster.estimator.workload import Region


class CrossEntropy:
    """torch's cross-entropy.

    Options: vocabulary.
    """

    def __init__(self, row: Row) -> None:
        self._row = row

    def build(self, recompute: Region) -> nn.Module:
        """Builds the loss, which has no weights."""
        return nn.CrossEntropyLoss()

    def run(self, model: nn.Module, autocast: Region) -> None:
        """Computes the loss and its gradient, several times."""
        tokens, vocabulary = self._row.batch * self._row.length, int(str(self._row.options["vocabulary"]))
        logits = torch.empty(tokens, vocabulary, dtype=getattr(torch, self._row.dtype), requires_grad=True)
        target = torch.empty(tokens, dtype=torch.int64)
        for _ in range(STEPS):
            model(logits, target).backward(retain_graph=True)


class LinearCrossEntropy(CrossEntropy):
    """The same benchmark with the output head before the loss; the head of the other implementation is there too.

    Options: vocabulary, hidden.
    """

    def build(self, recompute: Region) -> nn.Module:
        """Builds the output head."""
        options = self._row.options
        hidden, vocabulary = int(str(options["hidden"])), int(str(options["vocabulary"]))
        heads = [nn.Linear(hidden, vocabulary, bias=False, dtype=getattr(torch, self._row.dtype)) for _ in range(2)]
        return nn.ModuleList(heads)

    def run(self, model: nn.Module, autocast: Region) -> None:
        """Computes the loss and the gradients of weights and input, several times."""
        tokens, hidden = self._row.batch * self._row.length, int(str(self._row.options["hidden"]))
        inputs = torch.empty(tokens, hidden, dtype=getattr(torch, self._row.dtype), requires_grad=True)
        target = torch.empty(tokens, dtype=torch.int64)
        head = next(model.children())
        for _ in range(STEPS):
            functional.cross_entropy(head(inputs), target).backward(retain_graph=True)  # type: ignore[no-untyped-call]


class KlDivergence(CrossEntropy):
    """torch's Kullback-Leibler divergence of logarithms that were made before the measured function.

    Options: vocabulary.
    """

    def run(self, model: nn.Module, autocast: Region) -> None:
        """Computes the loss and its gradient, several times."""
        size = (self._row.batch * self._row.length, int(str(self._row.options["vocabulary"])))
        logits = torch.empty(size, requires_grad=True)
        found, target = logits.log_softmax(-1), torch.empty(size).softmax(-1)
        for _ in range(STEPS):
            functional.kl_div(found, target, reduction="batchmean").backward(retain_graph=True)  # type: ignore[no-untyped-call]


class LinearJensenShannon(LinearCrossEntropy):
    """Two output heads (student and teacher) and the Jensen-Shannon divergence of their outputs.

    Options: vocabulary, hidden.
    """

    def run(self, model: nn.Module, autocast: Region) -> None:
        """Computes the loss and the gradients, several times."""
        size = (self._row.batch * self._row.length, int(str(self._row.options["hidden"])))
        dtype = getattr(torch, self._row.dtype)
        student, teacher = torch.empty(size, dtype=dtype, requires_grad=True), torch.empty(size, dtype=dtype)
        heads = list(model.children())
        for _ in range(STEPS):
            self._loss(heads[0], heads[1], student, teacher).backward()  # type: ignore[no-untyped-call]

    def _loss(self, student: nn.Module, teacher: nn.Module, one: Tensor, other: Tensor) -> Tensor:
        student_logits = student(one)
        teacher_logits = teacher(other)
        student_shares = torch.log_softmax(student_logits / 1.0, dim=-1)
        teacher_shares = torch.log_softmax(teacher_logits / 1.0, dim=-1)
        return self._divergence(student_shares, teacher_shares)  # the caller's tensors live meanwhile

    def _divergence(self, log_q: Tensor, log_p: Tensor) -> Tensor:
        log_p, log_q = log_p.float(), log_q.float()
        mixed = torch.lerp(torch.exp(log_p), torch.exp(log_q), 0.5)
        first = functional.kl_div(torch.log(mixed), log_p, reduction="batchmean", log_target=True)
        second = functional.kl_div(torch.log(mixed), log_q, reduction="batchmean", log_target=True)
        return (0.5 * first + 0.5 * second).to(getattr(torch, self._row.dtype))


class LlamaMlp:
    """The MLP of transformers' Llama.

    Options: hidden, ffn.
    """

    def __init__(self, row: Row) -> None:
        self._row = row

    def build(self, recompute: Region) -> nn.Module:
        """Builds the layer."""
        from transformers import LlamaConfig
        from transformers.models.llama.modeling_llama import LlamaMLP

        hidden, ffn = (int(str(self._row.options[name])) for name in ("hidden", "ffn"))
        made: nn.Module = LlamaMLP(LlamaConfig(hidden_size=hidden, intermediate_size=ffn))
        return made.to(getattr(torch, self._row.dtype))

    def run(self, model: nn.Module, autocast: Region) -> None:
        """Computes output and gradients, several times."""
        size = (self._row.batch, self._row.length, int(str(self._row.options["hidden"])))
        inputs = torch.empty(size, dtype=getattr(torch, self._row.dtype), requires_grad=True)
        for _ in range(STEPS):
            self._call(model, inputs)

    def _call(self, model: nn.Module, inputs: Tensor) -> None:
        outputs = model(inputs)
        outputs.backward(torch.empty_like(outputs), retain_graph=True)
