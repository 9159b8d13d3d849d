"""TRL's own trainer on the broker, with a small random model, and a worker that generates with its weights.

    python whole_trainer.py train URL FOLDER STEPS cpu
    python whole_trainer.py generate URL FOLDER cpu

The trainer goes on from the newest whole checkpoint in the folder, and writes a line of JSON for each step. TRL's
attention is a kernel for GPUs, which the package `kernels` fetches. Without that package, PyTorch takes the same sums.
"""

# pyright: basic, reportMissingImports=false

import importlib.util
import json
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, models, pre_tokenizers
from torch.nn.functional import scaled_dot_product_attention
from transformers import (
    AttentionInterface,
    AutoModelForCausalLM,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
    TrainerCallback,
)
from trl.experimental.async_grpo import AsyncGRPOConfig, AsyncGRPOTrainer, async_grpo_trainer
from trl.experimental.async_grpo.packing import TREE_ATTENTION

from broker import Attempt, Worker
from broker.integrations.trl import BrokerRolloutWorker, BrokerWeightTransfer, result

torch: Any = import_module("torch")  # a folder of the tests has this name, too

CHARACTERS = "0123456789+= "
ROWS = [{"prompt": f"{number % 10}+{number // 10}="} for number in range(40)]


def save_model(folder: Path) -> None:
    """A random model of two layers with a token for each character."""
    words = {character: number for number, character in enumerate(CHARACTERS)} | {"<eos>": len(CHARACTERS)}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<eos>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<eos>", pad_token="<eos>").save_pretrained(folder)
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=len(words), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, eos_token_id=words["<eos>"], bos_token_id=None, tie_word_embeddings=True,
    )  # fmt: skip
    Qwen2ForCausalLM(config).save_pretrained(folder)


def tree_attention(
    module, query, key, value, mask, *, tree_kv_index, tree_cu_seqlens_q, tree_cu_seqlens_k, scaling=None, **_
):
    """Each segment attends to the keys of its path: what TRL's kernel does."""
    parts = []
    repeat = query.shape[1] // key.shape[1]
    bounds = zip(tree_cu_seqlens_q, tree_cu_seqlens_q[1:], tree_cu_seqlens_k, tree_cu_seqlens_k[1:], strict=False)
    for begin, end, first, last in bounds:
        path = tree_kv_index[first:last]
        queries = query[:, :, begin:end]
        keys, values = (x[:, :, path].repeat_interleave(repeat, 1) for x in (key, value))
        count, behind = end - begin, last - first - (end - begin)
        seen = torch.ones(count, last - first, dtype=torch.bool, device=query.device).tril(int(behind))
        parts.append(scaled_dot_product_attention(queries, keys, values, attn_mask=seen, scale=scaling))
    return torch.cat(parts, 2).transpose(1, 2), None


class Told(TrainerCallback):
    """Writes after each step which groups this life has collated."""

    def __init__(self, path: Path) -> None:
        self.path, self.known = path, set()
        self.trainer: AsyncGRPOTrainer | None = None

    def on_step_end(self, args, state, control, **_):
        # The loader has collated the next step, too: it fetches one micro-batch ahead, which is a step here.
        assert self.trainer is not None, "set below"
        line = {"step": state.global_step, "collated": sorted(self.trainer._trained_groups)}
        with self.path.open("a", encoding="utf-8") as lines:
            lines.write(json.dumps(line) + "\n")


def generate(url: str, folder: Path, device: str) -> None:
    """Works until training has ended: four tokens for each prompt, and the reward is the share of digits among them."""
    torch.set_num_threads(1)
    torch.seed()
    model = AutoModelForCausalLM.from_pretrained(folder / "model").to(device)

    def load(version: int, path: Path) -> None:
        loaded = model.load_state_dict(torch.load(path, map_location=device), strict=False)
        assert loaded.missing_keys in ([], ["lm_head.weight"]), loaded  # the head is the embedding

    @torch.no_grad()
    def sample(attempt: Attempt) -> dict:
        prompt = [CHARACTERS.index(character) for character in attempt.payload["prompt"]]
        tokens, logs = list(prompt), []
        for _ in range(4):
            log_softmax = model(torch.tensor([tokens], device=device)).logits[0, -1].float().log_softmax(-1)
            tokens.append(int(torch.multinomial(log_softmax.exp(), 1)))
            logs.append(float(log_softmax[tokens[-1]]))
        made = tokens[len(prompt) :]
        return result(prompt, made, logs, sum(token < 10 for token in made) / 4)

    with Worker(url, "whole", load_weights=load, wait_for_run_s=600.0) as worker:
        worker.run(sample)


def train(url: str, folder: Path, steps: int, device: str) -> None:
    if device == "cpu":
        torch.set_num_threads(1)
        async_grpo_trainer.get_peak_flops_per_device = lambda *_: None  # it asks for the name of the GPU
    model = folder / "model"
    if not model.exists():
        save_model(model)
    whole = [path for path in folder.glob("out/checkpoint-*") if (path / "trainer_state.json").exists()]
    newest = max(whole, key=lambda path: int(path.name.rpartition("-")[2]), default=None)
    worker = BrokerRolloutWorker(url, "whole", ROWS)
    told = Told(folder / "steps.jsonl")
    args = AsyncGRPOConfig(
        output_dir=str(folder / "out"), max_steps=steps, save_steps=2, logging_steps=1, report_to="none",
        per_device_train_batch_size=8, gradient_accumulation_steps=1, num_generations=4, max_staleness=2,
        token_budget=0, use_cpu=device == "cpu", bf16=device != "cpu", learning_rate=1e-3,
    )  # fmt: skip
    trainer = AsyncGRPOTrainer(
        model=str(model), args=args, train_dataset=ROWS, rollout_worker=worker, callbacks=[worker.callback, told],
        weight_transfer=BrokerWeightTransfer(worker, folder / "weights"), reward_funcs=[],
    )  # fmt: skip
    told.trainer = trainer
    if importlib.util.find_spec("kernels") is None:
        AttentionInterface.register(TREE_ATTENTION, tree_attention)
    trainer.train(resume_from_checkpoint=None if newest is None else str(newest))


if __name__ == "__main__":
    role, url, folder, *rest = sys.argv[1:]
    if role == "train":
        train(url, Path(folder), int(rest[0]), rest[1])
    else:
        generate(url, Path(folder), rest[0])
