"""Two kinds of problems whose answers can be checked: sums, and chains of sums that need a tool."""

import random
import re
from dataclasses import dataclass
from typing import Protocol


class Problems(Protocol):
    """A kind of problem."""

    def prompt(self, rng: random.Random) -> str:
        """The text of a new problem."""
        ...

    def solution(self, prompt: str) -> str:
        """What an ideal model writes after the prompt, the tool's answers included."""
        ...

    def answer(self, text: str) -> str:
        """What the environment appends to a text that the model has just extended; "" for nothing."""
        ...

    def reward(self, text: str) -> float:
        """1.0 if the finished text solves its problem, otherwise 0.0."""
        ...


@dataclass(frozen=True)
class Sums:
    """`3+4=` is to be continued with `7` and the end of the line.

    Args:
        below: the summands are smaller than this.
    """

    below: int = 10

    def prompt(self, rng: random.Random) -> str:
        return f"{rng.randrange(self.below)}+{rng.randrange(self.below)}="

    def solution(self, prompt: str) -> str:
        first, second = prompt.rstrip("=").split("+")
        return f"{int(first) + int(second)}\n"

    def answer(self, text: str) -> str:
        return ""

    def reward(self, text: str) -> float:
        prompt, _, written = text.partition("=")
        return float(written == self.solution(f"{prompt}="))


@dataclass(frozen=True)
class ToolSums:
    """Several turns: the model adds three numbers with a tool that adds two.

    `3+4+9?` is to be continued with `[3+4]`, to which the tool appends `7;`, then `[7+9]`, to which the tool appends
    `16;`, then `=16` and the end of the line. Only the last number counts.

    Args:
        below: the summands are smaller than this.
    """

    below: int = 10

    def prompt(self, rng: random.Random) -> str:
        return "+".join(str(rng.randrange(self.below)) for _ in range(3)) + "?"

    def solution(self, prompt: str) -> str:
        first, second, third = (int(number) for number in prompt.rstrip("?").split("+"))
        total = first + second
        return f"[{first}+{second}]{total};[{total}+{third}]{total + third};={total + third}\n"

    def answer(self, text: str) -> str:
        called = re.search(r"\[(\d{1,3})\+(\d{1,3})\]\Z", text)
        return f"{int(called[1]) + int(called[2])};" if called else ""

    def reward(self, text: str) -> float:
        prompt, _, written = text.partition("?")
        total = sum(int(number) for number in prompt.split("+"))
        return float(written.endswith(f";={total}\n"))


PROBLEMS: dict[str, type[Sums | ToolSums]] = {"sums": Sums, "tool": ToolSums}
