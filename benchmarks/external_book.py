"""The GPT of the book "Build a Large Language Model (From Scratch)", as its speed comparison trains it."""

import math

import torch
import torch.nn.functional as functional
from torch import Tensor, nn

from benchmarks.external_lora import default_dtype
from benchmarks.external_programs import STEPS, tokens_of
from benchmarks.external_runs import Row
from cluster.estimator.workload import Region


class BookGpt:
    """Training of the book's GPT-2 (124M, untied head, 8 x 1,024 tokens), in its steps from the plain to the fast one.

    Options: stage (plain, mask, bf16, classes, flash). From bf16 on AdamW is fused. An evaluation follows step 1.
    """

    def __init__(self, row: Row) -> None:
        self._row = row

    def build(self, recompute: Region) -> nn.Module:
        """Builds the model."""
        with default_dtype(self._row.dtype):
            return BookModel(str(self._row.options["stage"])).train()

    def run(self, model: nn.Module, autocast: Region) -> None:
        """Runs the steps."""
        inputs, targets = tokens_of(self._row), tokens_of(self._row)
        parameters = list(model.parameters())
        foreach = torch.optim.AdamW(parameters, foreach=True) if self._row.dtype == "float32" else None
        states: list[Tensor] = []
        for step in range(STEPS + 1):
            model.zero_grad()
            loss = functional.cross_entropy(model(inputs).flatten(0, 1), targets.flatten())
            loss.backward()  # type: ignore[no-untyped-call]
            if foreach is not None:
                foreach.step()
            elif not states:
                states += [torch.zeros_like(one) for one in parameters for _ in range(2)]
            if step == 0:
                with torch.no_grad():
                    model.eval()
                    functional.cross_entropy(model(inputs).flatten(0, 1), targets.flatten())
                    model.train()


class BookModel(nn.Module):
    """The book's GPTModel."""

    def __init__(self, stage: str) -> None:
        super().__init__()
        self.tokens, self.positions = nn.Embedding(50257, 768), nn.Embedding(1024, 768)
        self.dropout = nn.Dropout(0.1)
        self.blocks = nn.Sequential(*(BookBlock(stage) for _ in range(12)))
        self.norm = _book_norm(stage)
        self.head = nn.Linear(768, 50257, bias=False)

    def forward(self, ids: Tensor) -> Tensor:
        """Returns the logits."""
        x = self.tokens(ids) + self.positions(torch.arange(ids.shape[1]))
        return self.head(self.norm(self.blocks(self.dropout(x))))  # type: ignore[no-any-return]


class BookBlock(nn.Module):
    """The book's TransformerBlock."""

    def __init__(self, stage: str) -> None:
        super().__init__()
        self.attention = BookFlash() if stage == "flash" else BookAttention(stage)
        gelu: nn.Module = nn.GELU(approximate="tanh") if stage in ("classes", "flash") else BookGelu()
        self.mlp = nn.Sequential(nn.Linear(768, 3072), gelu, nn.Linear(3072, 768))
        self.norm1, self.norm2 = _book_norm(stage), _book_norm(stage)
        self.dropout = nn.Dropout(0.1)

    def forward(self, x: Tensor) -> Tensor:
        """Runs the layer."""
        shortcut = x
        x = self.norm1(x)
        x = self.attention(x)
        x = self.dropout(x)
        x = x + shortcut
        shortcut = x
        x = self.norm2(x)
        x = self.mlp(x)
        x = self.dropout(x)
        return x + shortcut


class BookAttention(nn.Module):
    """The book's attention with its own softmax."""

    def __init__(self, stage: str) -> None:
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(768, 768, bias=False) for _ in range(3))
        self.out, self.dropout = nn.Linear(768, 768), nn.Dropout(0.1)
        self.mask: Tensor | None
        self.register_buffer("mask", torch.ones(1024, 1024) if stage == "plain" else None)

    def forward(self, x: Tensor) -> Tensor:
        """Attends to earlier tokens."""
        batch, length, width = x.shape
        keys, queries, values = (one(x) for one in (self.key, self.query, self.value))
        keys, values, queries = (one.view(batch, length, 12, 64).transpose(1, 2) for one in (keys, values, queries))
        scores = queries @ keys.transpose(2, 3)
        kept = torch.triu(torch.ones(length, length), diagonal=1) if self.mask is None else self.mask
        scores.masked_fill_(kept.bool()[:length, :length], -math.inf)
        shares = self.dropout(torch.softmax(scores / 64**0.5, dim=-1))
        context = (shares @ values).transpose(1, 2).reshape(batch, length, width)
        return self.out(context)  # type: ignore[no-any-return]


class BookFlash(nn.Module):
    """The book's attention by torch's kernel."""

    def __init__(self) -> None:
        super().__init__()
        self.joint, self.out = nn.Linear(768, 2304, bias=False), nn.Linear(768, 768)

    def forward(self, x: Tensor) -> Tensor:
        """Attends to earlier tokens."""
        batch, length, width = x.shape
        query, key, value = self.joint(x).view(batch, length, 3, 12, 64).permute(2, 0, 3, 1, 4)
        dropout = 0.1 if self.training else 0.0
        context = functional.scaled_dot_product_attention(query, key, value, dropout_p=dropout, is_causal=True)
        return self.out(context.transpose(1, 2).contiguous().view(batch, length, width))  # type: ignore[no-any-return]


class BookNorm(nn.Module):
    """The book's LayerNorm."""

    def __init__(self) -> None:
        super().__init__()
        self.scale, self.shift = nn.Parameter(torch.ones(768)), nn.Parameter(torch.zeros(768))

    def forward(self, x: Tensor) -> Tensor:
        """Normalizes the last dimension."""
        mean = x.mean(dim=-1, keepdim=True)
        variance = x.var(dim=-1, keepdim=True, unbiased=False)
        normed = (x - mean) / torch.sqrt(variance + 1e-5)
        return self.scale * normed + self.shift


class BookGelu(nn.Module):
    """The book's GELU."""

    def forward(self, x: Tensor) -> Tensor:
        """Computes it by tanh."""
        return 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * torch.pow(x, 3))))


def _book_norm(stage: str) -> nn.Module:
    return nn.LayerNorm(768) if stage in ("classes", "flash") else BookNorm()
