"""A decoder-only transformer over characters, and batched sampling with a key-value cache."""

# Checked less strictly than other files: PyTorch does not declare all its types, and need not be installed.
# pyright: basic, reportMissingImports=false

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, scaled_dot_product_attention

#: What a rollout may contain; the newline ends it.
CHARACTERS = "\n0123456789+=[];?"
END = 0


def encode(text: str) -> list[int]:
    """The tokens of a text: one for each character."""
    return [CHARACTERS.index(character) for character in text]


def decode(tokens: list[int]) -> str:
    """The text of tokens."""
    return "".join(CHARACTERS[token] for token in tokens)


@dataclass(frozen=True)
class Size:
    """The shape of the transformer.

    Args:
        layers: number of blocks.
        width: features of a token; a multiple of `heads`.
        heads: attention heads of a block.
        learning_rate: of AdamW in GRPO; a larger transformer needs a smaller one.
        warm_up_rate: of AdamW in the supervised steps before.
        context: the most tokens of a rollout.
    """

    layers: int
    width: int
    heads: int
    learning_rate: float
    warm_up_rate: float
    context: int = 40


#: For a CPU 0.1 and 0.4 million parameters, for a GPU 85 million.
SIZES = {
    "tiny": Size(layers=2, width=64, heads=4, learning_rate=5e-4, warm_up_rate=1e-3),
    "small": Size(layers=2, width=128, heads=4, learning_rate=5e-4, warm_up_rate=1e-3),
    "85m": Size(layers=12, width=768, heads=12, learning_rate=2e-5, warm_up_rate=1e-4),
}


class Block(nn.Module):
    """Attention and a feed-forward layer, each after a normalisation."""

    def __init__(self, size: Size) -> None:
        super().__init__()
        self.heads = size.heads
        self.before_attention, self.before_feed_forward = nn.LayerNorm(size.width), nn.LayerNorm(size.width)
        self.query_key_value = nn.Linear(size.width, 3 * size.width)
        self.out = nn.Linear(size.width, size.width)
        self.feed_forward = nn.Sequential(
            nn.Linear(size.width, 4 * size.width), nn.GELU(), nn.Linear(4 * size.width, size.width)
        )

    def forward(self, x: Tensor, cache: Tensor | None = None, position: int = 0) -> Tensor:
        """The next layer's input.

        Args:
            x: features `[N, T, width]`.
            cache: keys and values of the earlier tokens `[2, N, heads, context, width / heads]`, extended in place;
                then T is 1.
            position: where the token of `x` stands; used with a cache.
        """
        rows, length, width = x.shape
        parts = self.query_key_value(self.before_attention(x)).view(rows, length, 3, self.heads, width // self.heads)
        query, key, value = parts.permute(2, 0, 3, 1, 4)
        if cache is not None:
            cache[0, :, :, position], cache[1, :, :, position] = key[:, :, 0], value[:, :, 0]
            key, value = cache[0, :, :, : position + 1], cache[1, :, :, : position + 1]
        mixed = scaled_dot_product_attention(query, key, value, is_causal=cache is None)
        x = x + self.out(mixed.transpose(1, 2).reshape(rows, length, width))
        return x + self.feed_forward(self.before_feed_forward(x))


class Transformer(nn.Module):
    """Tokens in, the logits of the next token out."""

    def __init__(self, size: Size) -> None:
        super().__init__()
        self.size = size
        self.tokens = nn.Embedding(len(CHARACTERS), size.width)
        self.positions = nn.Embedding(size.context, size.width)
        self.blocks = nn.ModuleList(Block(size) for _ in range(size.layers))
        self.norm = nn.LayerNorm(size.width)
        self.head = nn.Linear(size.width, len(CHARACTERS), bias=False)
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.normal_(module.weight, std=0.02)

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits `[N, T, characters]` of the tokens that follow `tokens` `[N, T]`."""
        x = self.tokens(tokens) + self.positions(torch.arange(tokens.shape[1], device=tokens.device))
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))

    def log_probabilities(self, tokens: Tensor) -> Tensor:
        """Log-probability `[N, T - 1]` of each token of `tokens` `[N, T]` but the first, given those before it."""
        logits = self(tokens[:, :-1]).float()
        return -cross_entropy(logits.transpose(1, 2), tokens[:, 1:], reduction="none")

    @torch.no_grad()
    def sample(
        self, prompts: list[str], answer: Callable[[str], str], greedy: bool = False
    ) -> list[dict[str, np.ndarray]]:
        """Continues each prompt until it ends, or until the context is full.

        Args:
            prompts: texts, each shorter than the context.
            answer: the environment: called with a row's text after each token of the model; what it returns is
                appended to the row.
            greedy: take the most probable token each time.

        Returns:
            For each prompt `tokens` (int64, prompt included), `mask` (1.0 where the model chose the token) and
            `log_probabilities` (float32, of the tokens that the model chose; 0 elsewhere), each `[T]`.
        """
        device = self.head.weight.device
        size, count = self.size, len(prompts)
        shape = (size.layers, 2, count, size.heads, size.context, size.width // size.heads)
        caches = torch.zeros(shape, device=device, dtype=self.head.weight.dtype)
        rows = Rows(prompts, answer)
        for position in range(size.context - 1):
            newest = torch.tensor(rows.newest, device=device)
            x = (self.tokens(newest) + self.positions.weight[position])[:, None]
            for block, cache in zip(self.blocks, caches, strict=True):
                x = block(x, cache, position)
            log_softmax = self.head(self.norm(x[:, 0])).float().log_softmax(-1)
            drawn = log_softmax.argmax(-1) if greedy else torch.multinomial(log_softmax.exp(), 1)[:, 0]
            both = torch.stack([drawn.double(), log_softmax.gather(1, drawn[:, None])[:, 0].double()]).tolist()
            if rows.extend(*both):
                break
        return rows.results()


class Rows:
    """Texts that grow by one token at a time: one that the environment gives, or one that the model chose.

    Args:
        prompts: what the environment gives at first.
        answer: what it gives after a token of the model.
    """

    def __init__(self, prompts: list[str], answer: Callable[[str], str]) -> None:
        self._answer = answer
        self._texts = [prompt[0] for prompt in prompts]
        self._given = [encode(prompt[1:])[::-1] for prompt in prompts]  # what comes next, the next one last
        self._chosen: list[list[float]] = [[0.0] for _ in prompts]
        self._logs: list[list[float]] = [[0.0] for _ in prompts]
        self._ended = [False] * len(prompts)
        self.newest = [CHARACTERS.index(text) for text in self._texts]

    def extend(self, drawn: list[float], logs: list[float]) -> bool:
        """Extends each row by a token: the drawn one, unless another is given. Returns whether all rows have ended."""
        for row in range(len(self._texts)):
            if self._ended[row]:
                continue
            given = self._given[row]
            is_given = bool(given)
            token = self.newest[row] = given.pop() if is_given else int(drawn[row])
            self._texts[row] += CHARACTERS[token]
            self._chosen[row].append(0.0 if is_given else 1.0)
            self._logs[row].append(0.0 if is_given else logs[row])
            if not is_given:
                self._ended[row] = token == END
                self._given[row] = encode(self._answer(self._texts[row]))[::-1]
        return all(self._ended)

    def results(self) -> list[dict[str, np.ndarray]]:
        """What `Transformer.sample` returns."""
        return [
            {
                "tokens": np.array(encode(text), np.int64),
                "mask": np.array(chosen, np.float32),
                "log_probabilities": np.array(logs, np.float32),
            }
            for text, chosen, logs in zip(self._texts, self._chosen, self._logs, strict=True)
        ]


def set_up(device: str) -> None:
    """Makes a process work on a device: with one thread on a CPU, since there are several processes."""
    torch.set_num_threads(1)
    if device.startswith("cuda:"):
        torch.cuda.set_device(device)  # streams and graphs are of the current one


def dtype_on(device: str) -> torch.dtype:
    """The type that weights have for generating on a device."""
    return torch.bfloat16 if device.startswith("cuda") else torch.float32
