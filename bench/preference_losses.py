"""The loss code of preference training: LLaMA-Factory's mathematics, and TRL's own trainers.

`bench.trace.preference` runs it on fake tensors, `bench.gpu_dpo` on a GPU. TRL's rows run
`_compute_loss` of the `DPOTrainer` that can be imported (1.9.0 computes whole logits, 1.16.0
tiles). LLaMA-Factory's repeat the mathematics of its trainers (0.9.5, `train/dpo/trainer.py`,
`train/kto/trainer.py`, `train/rm/trainer.py`).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from importlib.util import find_spec
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from vram_search.estimate.memory.workload import Workload

Loss = Callable[[Any, Workload], Tensor]


def _inputs(workload: Workload) -> dict[str, Tensor]:
    """One micro-batch; unless lengths are equal, every text but the first ends in padding."""
    shape = (workload.texts, workload.cutoff_len)
    mask = torch.ones(shape, dtype=torch.int64)
    if not workload.equal_lengths:
        mask[1:, -workload.cutoff_len // 8 :] = 0
    return {"input_ids": torch.zeros(shape, dtype=torch.int64), "attention_mask": mask}


def _device_type() -> str:
    """Where new tensors are made: `cuda` on a GPU, `cpu` for fake tensors."""
    return str(torch.get_default_device().type)


def _logps(logits: Tensor) -> Tensor:
    """LLaMA-Factory `get_batch_logps`."""
    labels = torch.zeros(logits.shape[:-1], dtype=torch.int64)[:, 1:].clone()
    logits = logits[:, :-1, :]
    mask = labels != -100
    labels[labels == -100] = 0
    chosen = torch.gather(logits.log_softmax(-1), dim=2, index=labels.unsqueeze(2)).squeeze(2)
    return (chosen * mask).sum(-1)


def _forward(model: Any, workload: Workload) -> tuple[Tensor, Tensor]:
    inputs = _inputs(workload)
    logits = model(**inputs, return_dict=True, use_cache=False).logits.to(torch.float32)
    return logits, _logps(logits)


def _pairs(model: Any, workload: Workload) -> tuple[Tensor, Tensor, tuple[Tensor, ...]]:
    logits, logps = _forward(model, workload)
    half = workload.texts // 2
    chosen, rejected = logps.split(half)
    return chosen, rejected, logits.split(half)


def _dpo(model: Any, workload: Workload) -> Tensor:
    """`CustomDPOTrainer.get_batch_loss_metrics`."""
    chosen, rejected, logits = _pairs(model, workload)
    with torch.no_grad(), model.disable_adapter():
        reference_chosen, reference_rejected, _ = _pairs(model, workload)
    losses = -functional.logsigmoid(
        0.1 * ((chosen - rejected) - (reference_chosen - reference_rejected))
    )
    for half in logits:
        half.mean().item()
    return losses.mean()


def _orpo(model: Any, workload: Workload) -> Tensor:
    """`CustomDPOTrainer.odds_ratio_loss`, without a reference."""
    chosen, rejected, logits = _pairs(model, workload)
    odds = (chosen - rejected) - (
        torch.log1p(-torch.exp(chosen)) - torch.log1p(-torch.exp(rejected))
    )
    for half in logits:
        half.mean().item()
    return (-chosen - 0.1 * functional.logsigmoid(odds)).mean()


def _kto_forward(model: Any, workload: Workload) -> tuple[Tensor, Tensor, list[Tensor]]:
    logits, logps = _forward(model, workload)
    with torch.no_grad():
        _, kl_logps = _forward(model, workload)
    half = max(1, len(logps) // 2)
    return logps, kl_logps, [logits[:half].clone(), logits[half:].clone()]


def _kto(model: Any, workload: Workload) -> Tensor:
    """`CustomKTOTrainer.get_batch_loss_metrics`; half of the rows are good answers."""
    logps, kl_logps, logits = _kto_forward(model, workload)
    with torch.no_grad(), model.disable_adapter():
        reference, reference_kl, _ = _kto_forward(model, workload)
    kl = (kl_logps - reference_kl).mean().detach()
    losses = 1 - torch.sigmoid(0.1 * ((logps - reference) - kl))
    for half in logits:
        half.nansum().item()
    return losses.nanmean()


def _rm(model: Any, workload: Workload) -> Tensor:
    """`PairwiseTrainer.compute_loss` on TRL's model with a value head."""
    inputs = _inputs(workload)
    forward = torch.autocast(_device_type(), torch.bfloat16)(type(model).forward)
    output = forward(model, **inputs, output_hidden_states=True, use_cache=False)
    hidden, logits = output.hidden_states[-1], output.logits
    logits = logits.float()
    head = torch.zeros(1, hidden.shape[-1], requires_grad=True)
    with torch.autocast(_device_type(), torch.bfloat16):
        values = functional.linear(hidden.float(), head).squeeze(-1).float()
    del logits, output
    scores = values[:, -1]
    half = workload.texts // 2
    return -functional.logsigmoid(scores[:half] - scores[half:]).mean()


def _trl_self(model: Any, *, precomputed: bool) -> Any:
    """As much of a trainer as `_compute_loss` asks for."""
    accelerator = SimpleNamespace(
        device=torch.get_default_device(),
        gather_for_metrics=lambda value: value,
        gather=lambda value: value,
        unwrap_model=lambda value: value,
    )
    return SimpleNamespace(
        model=model,
        ref_model=None,
        accelerator=accelerator,
        args=SimpleNamespace(gradient_checkpointing_kwargs=None, max_length=None),
        aux_loss_enabled=False,
        precompute_ref_logps=precomputed,
        ld_alpha=None,
        f_divergence_type="reverse_kl",
        loss_types=["sigmoid"],
        loss_weights=[1.0],
        use_weighting=False,
        label_smoothing=0.0,
        beta=0.1,
        _metrics={"train": defaultdict(list), "eval": defaultdict(list)},
        _total_train_tokens=0,
        _tp_size=1,
    )


def _trl_dpo(model: Any, workload: Workload) -> Tensor:
    from trl import DPOTrainer

    precomputed = workload.objective.endswith("precomputed")
    if not trl_has_whole_logits():
        from trl.trainer.utils import add_fused_lm_head

        outputs = ("log_probs", "entropy", "mean_logits", "is_top1")
        add_fused_lm_head(model.get_base_model(), outputs=outputs)
    trainer = _trl_self(model, precomputed=precomputed)
    inputs = _inputs(workload)
    inputs["completion_mask"] = torch.ones_like(inputs["input_ids"])
    if precomputed:
        half = workload.texts // 2
        inputs["ref_chosen_logps"] = inputs["ref_rejected_logps"] = torch.zeros(half)
    loss: Tensor = DPOTrainer._compute_loss(trainer, model, inputs, False)
    return loss


def trl_has_whole_logits() -> bool:
    """Tells whether the TRL here computes the logits of all tokens at once."""
    import trl

    return tuple(map(int, trl.__version__.split(".")[:2])) < (1, 10)


def losses() -> dict[str, Loss]:
    """Objective -> the loss that is traced for it."""
    found: dict[str, Loss] = {
        "llamafactory dpo": _dpo,
        "llamafactory orpo": _orpo,
        "llamafactory kto": _kto,
        "llamafactory rm": _rm,
    }
    if find_spec("trl"):
        names = (
            ("trl dpo", "trl dpo precomputed") if trl_has_whole_logits() else ("trl dpo in chunks",)
        )
        found |= dict.fromkeys(names, _trl_dpo)
    return found
