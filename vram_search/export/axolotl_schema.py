"""The schema of an exported YAML for Axolotl."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, Literal

from pydantic import model_validator

from vram_search.errors import Fault
from vram_search.export.fields import (
    Dropout,
    NonReentrant,
    Optim,
    Scheduler,
    Text,
    schema_faults,
    target_faults,
)
from vram_search.export.training_keys import SharedKeys
from vram_search.spec.base import Count, Flag, Spec
from vram_search.spec.point import CutoffLen, LoraPlusRatio, Rank
from vram_search.tools.axolotl import LIGER_KERNELS


class _Dataset(Spec):
    path: Literal["train.json", "eval.json"]
    ds_type: Literal["json"]
    split: Literal["train"]
    type: Literal["chat_template"]
    chat_template: Literal["tokenizer_default"]
    field_messages: Literal["messages"]
    roles_to_train: tuple[Literal["assistant"]]
    train_on_eos: Literal["turn"]


class AxolotlConfig(SharedKeys):
    """Keys of Axolotl that an export uses; Axolotl accepts unknown keys and a rank of -8."""

    base_model: Text
    tokenizer_config: Text | None = None
    load_in_4bit: Literal[True]
    tf32: Literal[False]
    attn_implementation: Literal["sdpa"]
    embeddings_skip_upcast: Flag
    gradient_checkpointing: Flag
    gradient_checkpointing_kwargs: NonReentrant
    plugins: tuple[Literal["axolotl.integrations.liger.LigerPlugin"]] | None = None
    liger_rope: Literal[True] | None = None
    liger_rms_norm: Literal[True] | None = None
    liger_glu_activation: Literal[True] | None = None
    liger_fused_linear_cross_entropy: Literal[True] | None = None

    adapter: Literal["qlora"]
    lora_target_linear: Literal[True] | None = None
    lora_target_modules: tuple[Text, ...] | None = None
    freeze_mm_modules: Literal[True] | None = None
    lora_r: Rank
    lora_alpha: Count
    lora_dropout: Dropout
    peft_use_rslora: Flag = False
    peft_use_dora: Flag = False
    peft_init_lora_weights: Literal["olora"] | None = None
    loraplus_lr_ratio: LoraPlusRatio = 1.0
    lora_mlp_kernel: Literal[False]
    lora_qkv_kernel: Literal[False]
    lora_o_kernel: Literal[False]
    lora_embedding_kernel: Literal[False]

    datasets: tuple[_Dataset]
    test_datasets: tuple[_Dataset]
    val_set_size: Literal[0]
    dataset_prepared_path: Text
    shuffle_merged_datasets: Literal[False]
    sequence_len: CutoffLen
    eval_sequence_len: CutoffLen
    excess_length_strategy: Literal["truncate"]
    sample_packing: Flag
    eval_sample_packing: Literal[False] | None = None
    pad_to_sequence_len: Flag
    train_on_inputs: Literal[False]

    micro_batch_size: Count
    lr_scheduler: Scheduler
    optimizer: Optim
    eval_batch_size: Count

    @model_validator(mode="after")
    def _axolotl_keys_agree(self) -> AxolotlConfig:
        if self.datasets == self.test_datasets:
            raise ValueError(
                "datasets and test_datasets are the same: the model would be trained on its "
                "evaluation rows"
            )
        if (self.lora_target_linear is None) == (not self.lora_target_modules):
            raise ValueError("one of lora_target_linear and lora_target_modules is expected")
        if self.sample_packing != self.pad_to_sequence_len:
            raise ValueError("sample_packing and pad_to_sequence_len go together")
        if self.sample_packing and self.eval_sample_packing is None:
            raise ValueError("eval_sample_packing: false is expected with sample_packing")
        kernels = [getattr(self, name) for name in LIGER_KERNELS]
        if any(kernels) != all(kernels) or any(kernels) != bool(self.plugins):
            raise ValueError("the Liger plugin and its kernels go together")
        return self


def check_axolotl(config: Mapping[str, Any], modules: Collection[str]) -> list[Fault]:
    """Returns all faults of a configuration, given the model's linear layers."""
    faults = schema_faults(AxolotlConfig, config)
    names = config.get("lora_target_modules")
    if isinstance(names, list) and all(isinstance(name, str) for name in names):
        faults += target_faults("lora_target_modules", names, modules)
    return faults
