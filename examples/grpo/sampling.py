"""Sampling on a GPU: each step of the key-value cache is one CUDA graph, which costs the host one launch."""

# pyright: basic, reportMissingImports=false

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from examples.grpo.model import END, Rows, Transformer


class Sampler:
    """Continues up to so many rows at a time.

    The graph has fixed shapes: it attends to the whole context, with a mask for what is not written yet.

    Args:
        model: on a CUDA device; its weights may change between two calls, in place.
        places: the most rows of a call.
    """

    def __init__(self, model: Transformer, places: int) -> None:
        weight, size = model.head.weight, model.size
        self._model, self._places = model, places
        shape = (size.layers, 2, places, size.heads, size.context, size.width // size.heads)
        self._caches = torch.zeros(shape, device=weight.device, dtype=weight.dtype)
        self._newest = torch.zeros(places, device=weight.device, dtype=torch.long)
        self._position = torch.zeros(1, device=weight.device, dtype=torch.long)
        self._places_of_context = torch.arange(size.context, device=weight.device)
        self._graph, self._drawn = torch.cuda.CUDAGraph(), torch.empty(0)
        self._capture()

    @torch.no_grad()
    def _step(self) -> Tensor:
        """`[2, places]`: the drawn tokens and their log-probabilities."""
        model, position = self._model, self._position
        x = (model.tokens(self._newest) + model.positions(position))[:, None]
        is_there = (self._places_of_context <= position)[None, None, None]
        for block, cache in zip(model.blocks, self._caches, strict=True):
            rows, _, width = x.shape
            parts = block.query_key_value(block.before_attention(x))
            query, key, value = parts.view(rows, 1, 3, block.heads, width // block.heads).permute(2, 0, 3, 1, 4)
            cache[0].index_copy_(2, position, key)
            cache[1].index_copy_(2, position, value)
            mixed = scaled_dot_product_attention(query, cache[0], cache[1], attn_mask=is_there)
            x = x + block.out(mixed.transpose(1, 2).reshape(rows, 1, width))
            x = x + block.feed_forward(block.before_feed_forward(x))
        log_softmax = model.head(model.norm(x[:, 0])).float().log_softmax(-1)
        # The largest of log-probabilities with Gumbel noise is a draw from them.
        noise = -(-torch.rand_like(log_softmax).clamp_(1e-10, 1 - 1e-7).log()).log()
        drawn = (log_softmax + noise).argmax(-1)
        return torch.stack([drawn.float(), log_softmax.gather(1, drawn[:, None])[:, 0]])

    def _capture(self) -> None:
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(3):
                self._step()
        torch.cuda.current_stream().wait_stream(stream)
        with torch.cuda.graph(self._graph):
            self._drawn = self._step()

    def sample(self, prompts: list[str], answer: Callable[[str], str]) -> list[dict[str, np.ndarray]]:
        """As `Transformer.sample`."""
        rows = Rows(prompts, answer)
        padding = [END] * (self._places - len(prompts))
        for position in range(self._model.size.context - 1):
            self._newest.copy_(torch.tensor(rows.newest + padding))
            self._position.fill_(position)
            self._graph.replay()
            drawn, logs = self._drawn.tolist()
            if rows.extend(drawn, logs):
                break
        return rows.results()
