"""Measured trainings of adapters, rewritten for meta tensors: transformers' models with peft, and litgpt's GPT."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
import torch.nn.functional as functional
from torch import Tensor, nn

from benchmarks.external_programs import STEPS, model_of, tokens_of
from benchmarks.external_runs import Row
from cluster.estimator.workload import Region


@contextmanager
def default_dtype(name: str) -> Iterator[None]:
    """Makes new tensors in a format."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(getattr(torch, name))
    try:
        yield
    finally:
        torch.set_default_dtype(before)


class AdamWTrainer:
    """Training with torch's AdamW (foreach) and clipped gradients, without autocast.

    Options: targets, r and dora of an adapter by peft; without targets all weights are trained.
    """

    def __init__(self, row: Row) -> None:
        self._row = row

    def build(self, recompute: Region) -> nn.Module:
        """Builds the model, with an adapter where options name its modules."""
        model = model_of(self._row).train()
        if not self._row.options.get("targets"):
            return model
        from peft import LoraConfig, get_peft_model

        targets = str(self._row.options["targets"]).split()
        dora = bool(self._row.options.get("dora"))
        config = LoraConfig(r=int(str(self._row.options["r"])), lora_alpha=64, target_modules=targets, use_dora=dora)
        adapted: nn.Module = get_peft_model(model, config)
        return adapted

    def run(self, model: nn.Module, autocast: Region) -> None:
        """Runs the steps."""
        inputs = {name: tokens_of(self._row) for name in ("input_ids", "attention_mask", "labels")}
        optimizer = torch.optim.AdamW([one for one in model.parameters() if one.requires_grad], foreach=True)
        for _ in range(STEPS):
            optimizer.zero_grad()
            outputs = model(**inputs, use_cache=False)  # as the trainer sets it
            loss = outputs.loss
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0, foreach=False)  # meta tensors have no other
            optimizer.step()


class LitGptLora:
    """litgpt's fine-tuning with LoRA: bf16 weights, rank 8 on queries and values, the head in pieces of 128 tokens.

    Its first micro-batch holds the longest sample, before any optimizer state.
    """

    def __init__(self, row: Row) -> None:
        self._row = row

    def build(self, recompute: Region) -> nn.Module:
        """Builds the model."""
        with default_dtype("bfloat16"):
            model = LitGpt(self._row.model)
        for name, parameter in model.named_parameters():
            parameter.requires_grad = "lora" in name
        return model.train()

    def run(self, model: nn.Module, autocast: Region) -> None:
        """Runs one micro-step."""
        inputs, targets = tokens_of(self._row), tokens_of(self._row)
        pieces = [piece.float() for piece in model(inputs)]  # lightning's precision plugin raises outputs to fp32
        pieces[-1] = pieces[-1][..., :-1, :]
        logits = [piece.reshape(-1, piece.size(-1)) for piece in pieces]
        wanted = [piece.reshape(-1) for piece in torch.split(targets[..., 1:], pieces[0].size(1), dim=1)]
        losses = [
            functional.cross_entropy(one, other, reduction="none") for one, other in zip(logits, wanted, strict=True)
        ]
        loss = torch.cat(losses).mean()
        (loss / 128).backward()  # type: ignore[no-untyped-call]


class LitGpt(nn.Module):
    """litgpt's GPT with LoRA; the shape has layers, heads, width, ffn, vocabulary, rotary and llama."""

    def __init__(self, shape: Mapping[str, object]) -> None:
        super().__init__()
        layers, width, vocabulary = (int(str(shape[name])) for name in ("layers", "width", "vocabulary"))
        self.embedding = nn.Embedding(vocabulary, width)
        self.blocks = nn.ModuleList(LitBlock(shape) for _ in range(layers))
        self.norm = RootMeanSquare(width) if shape["llama"] else nn.LayerNorm(width)
        self.head = nn.Linear(width, vocabulary, bias=bool(shape["shared_norm"]))  # phi-1.5 has both
        self._rotated = int(width / int(str(shape["heads"])) * float(str(shape["rotary"])))

    def forward(self, tokens: Tensor) -> list[Tensor]:
        """Returns the logits of each piece of 128 tokens."""
        angles = torch.empty(tokens.shape[1], self._rotated, dtype=torch.float32)
        cos, sin = angles.cos(), angles.sin()
        x = self.embedding(tokens)
        for block in self.blocks:
            x = block(x, cos, sin)
        x = self.norm(x)
        return [self.head(piece) for piece in x.split(128, dim=1)]


class RootMeanSquare(nn.Module):
    """litgpt's RMSNorm, which does not leave the format of its input."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        """Scales to a mean square of 1."""
        mean = torch.mean(x * x, dim=-1, keepdim=True)
        normed = x * torch.rsqrt(mean + 1e-5)
        return self.weight * normed


class LitBlock(nn.Module):
    """One layer: Llama's, or GPT-NeoX's with parallel branches."""

    def __init__(self, shape: Mapping[str, object]) -> None:
        super().__init__()
        self._llama, width, ffn = bool(shape["llama"]), int(str(shape["width"])), int(str(shape["ffn"]))
        made = RootMeanSquare if self._llama else nn.LayerNorm
        self.norm_1 = made(width)
        self.norm_2 = None if shape["shared_norm"] else made(width)
        self.attention = LitAttention(width, int(str(shape["heads"])), bias=not self._llama)
        self.into = nn.ModuleList(nn.Linear(width, ffn, bias=not self._llama) for _ in range(1 + self._llama))
        self.out = nn.Linear(ffn, width, bias=not self._llama)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """Runs the layer."""
        normed = self.norm_1(x)
        attended = self.attention(normed, cos, sin)
        if self._llama:
            x = x + attended
            return x + self._mlp(self.norm_2(x) if self.norm_2 else x)
        whole: Tensor = x + attended + self._mlp(self.norm_2(x) if self.norm_2 else normed)
        return whole

    def _mlp(self, x: Tensor) -> Tensor:
        made = [into(x) for into in self.into]
        return self.out(functional.silu(made[0]) * made[1] if self._llama else functional.gelu(made[0]))  # type: ignore[no-any-return]


class LitAttention(nn.Module):
    """Attention whose rotation is in fp32, with LoRA on queries and values by a grouped convolution."""

    def __init__(self, width: int, heads: int, *, bias: bool, rank: int = 8) -> None:
        super().__init__()
        self._heads, self._size = heads, width // heads
        self.joint = nn.Linear(width, 3 * width, bias=bias)
        self.projection = nn.Linear(width, width, bias=bias)
        self.lora_a = nn.Parameter(torch.zeros(2 * rank, width))
        self.lora_b = nn.Parameter(torch.zeros(2 * width, rank))
        self.dropout = nn.Dropout(0.05)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """Attends to earlier tokens."""
        batch, length, width = x.shape
        joint = self._adapted(x).view(batch, length, self._heads, 3, self._size).permute(0, 2, 3, 1, 4)
        query, key, value = (part.reshape(batch, -1, length, self._size) for part in joint.unbind(dim=2))
        count = cos.shape[-1]
        query_rotated = _rotated(query[..., :count], cos, sin)
        key_rotated = _rotated(key[..., :count], cos, sin)
        query = torch.cat((query_rotated, query[..., count:]), dim=-1)
        key = torch.cat((key_rotated, key[..., count:]), dim=-1)
        attended = functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        return self.projection(attended.transpose(1, 2).reshape(batch, length, width))  # type: ignore[no-any-return]

    def _adapted(self, x: Tensor) -> Tensor:
        plain = self.joint(x)
        after_a = functional.linear(self.dropout(x), self.lora_a)
        after_b = functional.conv1d(after_a.transpose(-2, -1), self.lora_b.unsqueeze(-1), groups=2).transpose(-2, -1)
        turned = after_b.transpose(0, 1)
        whole = turned.new_zeros((*turned.shape[:-1], plain.shape[-1])).view(-1, plain.shape[-1])
        index = torch.empty(after_b.shape[-1], dtype=torch.int64)
        whole = whole.index_copy(1, index, turned.reshape(-1, after_b.shape[-1]))
        return plain + whole.view(*turned.shape[:-1], plain.shape[-1]).transpose(0, 1) * 2.0  # type: ignore[no-any-return]


def _rotated(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    half = x.size(-1) // 2
    turned = torch.cat((-x[..., half:], x[..., :half]), dim=-1)
    return ((x * cos) + (turned * sin)).type_as(x)
