"""Merges an adapter into its base model in bf16, and measures the merged model.

Weights are read and written tensor by tensor.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, GenerationConfig
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import WeightConverter, WeightRenaming, rename_source_key
from transformers.initialization import no_init_weights
from transformers.utils import GENERATION_CONFIG_NAME
from transformers.utils.hub import cached_file

from vram_search.data import load_rows
from vram_search.errors import InputError
from vram_search.model_code.build import auto_class
from vram_search.protocol import Merged, MergeJob, Note, finite
from vram_search.train import model as base_model
from vram_search.train.adapter_weights import AdapterWeights
from vram_search.train.device import compute_dtype, device
from vram_search.train.evaluate import Losses, evaluate
from vram_search.train.examples import Encoder, TokenRow, cut
from vram_search.train.fingerprints import base_fingerprints
from vram_search.train.safetensors_files import (
    SINGLE,
    TensorEntry,
    model_files,
    read_tensor,
    stored_tensors,
    write_index,
    write_tensors,
)
from vram_search.train.stop_tokens import stop_tokens
from vram_search.train.tokenizer import load_tokenizer

DTYPE = torch.bfloat16
COPIED = ("preprocessor_config.json", "processor_config.json")
"""Files of models of several parts that belong beside the weights."""

Send = Callable[[Note], None]
Change = Callable[[torch.Tensor], torch.Tensor]
"""Makes the merged weight of a base's weight."""


def merge(job: MergeJob, send: Send) -> Merged:
    """Writes the merged model with tokenizer, chat template and configuration.

    Raises:
        InputError: base or adapter cannot be merged, or the base is not the one of the search.
    """
    _refuse_other_base(job)
    folder = Path(job.target)
    folder.mkdir(exist_ok=True)
    name = job.load.model_name_or_path
    config = AutoConfig.from_pretrained(name, trust_remote_code=False)
    refuse_quantized(config, name)
    adapter = AdapterWeights(Path(job.adapter_folder))
    is_untied = _write_weights(config, name, adapter, folder, send)
    tokenizer = load_tokenizer(job.load.tokenizer, job.load.dataset.template)
    tokenizer.save_pretrained(folder)
    _write_config(config, folder, is_untied=is_untied)
    _write_generation_config(name, config, tokenizer, job, folder)
    for file in COPIED:
        found = cached_file(name, file, _raise_exceptions_for_missing_entries=False)
        if found is not None:
            shutil.copyfile(found, folder / file)
    losses = None
    if job.measure:
        send(Note(text="measuring the merged model on the evaluation rows ..."))
        losses = measure(job, folder)
    return Merged(
        size_bytes=folder_bytes(folder),
        eval_loss=None if losses is None else finite(losses.mean),
        example_loss_sums=() if losses is None else tuple(finite(value) for value in losses.sums),
        dtype=str(compute_dtype()).removeprefix("torch."),
        versions=base_model.versions(),
    )


def _refuse_other_base(job: MergeJob) -> None:
    found = base_fingerprints(job.load) if job.base_fingerprints else {}
    for name, before in job.base_fingerprints.items():
        if found.get(name, before) != before:
            raise InputError(
                f"the base {job.load.model_name_or_path} is not the one of the search: {name} "
                f"{before} -> {found[name]}",
                "restore the files of the search; an adapter fits the weights that it was trained "
                "on",
            )


def folder_bytes(folder: Path) -> int:
    """Returns the bytes of a folder's files."""
    return sum(file.stat().st_size for file in folder.iterdir())


def refuse_quantized(config: Any, name: str) -> None:
    """Refuses a base model that is quantised already.

    Raises:
        InputError: the base is stored in fewer than 16 bits.
    """
    if getattr(config, "quantization_config", None) is not None:
        raise InputError(
            f"the base {name} is a quantised copy; an adapter is merged into 16-bit weights",
            "merge it with peft on the 16-bit model that the copy was made of",
        )


def _write_weights(
    config: Any, name: str, adapter: AdapterWeights, folder: Path, send: Send
) -> bool:
    """Writes all weights; returns True if input and output embeddings are tied no longer.

    Raises:
        InputError: a layer of the adapter has no weight in the base's files.
    """
    files = model_files(name)
    stored = {file: stored_tensors(file) for file in files}
    tree = _ModelTree(config)
    places = {tree.name_of(key): key for rows in stored.values() for key, _, _ in rows}
    lora = {f"{module}.weight": module for module in adapter.lora}
    added = _untied_weights(tree, adapter, places, lora)
    unknown = sorted(({*lora, *adapter.whole} - {*places}) - {*added})
    if unknown:
        raise InputError(
            f"the base's files hold no weight {unknown[0]}, which the adapter changes",
            "merge it with peft: merge_and_unload() knows the model's own code",
        )
    changed: dict[str, Change] = {
        places[w]: partial(_merged, adapter, m) for w, m in lora.items() if w not in added
    }
    changed |= {
        places[w]: partial(_replaced, tensor)
        for w, tensor in adapter.whole.items()
        if w not in added
    }
    weight_map: dict[str, str] = {}
    total = 0
    for number, file in enumerate(files, start=1):
        send(Note(text=f"writing file {number} of {len(files)}"))
        entries = [_entry(file, key, dtype, shape, changed) for key, dtype, shape in stored[file]]
        if number == len(files):
            entries += [
                TensorEntry(weight, DTYPE, shape, partial(_added, load, files, stored, source))
                for weight, (shape, source, load) in added.items()
            ]
        target = SINGLE if len(files) == 1 else file.name
        write_tensors(folder / target, entries)
        weight_map |= {entry.name: target for entry in entries}
        total += sum(entry.size_bytes for entry in entries)
    if len(files) > 1:
        write_index(folder, weight_map, total)
    return bool(added)


def _merged(adapter: AdapterWeights, module: str, weight: torch.Tensor) -> torch.Tensor:
    return adapter.merged(module, weight)


def _replaced(tensor: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    return tensor


def _entry(
    file: Path,
    key: str,
    dtype: torch.dtype,
    shape: tuple[int, ...],
    changed: dict[str, Change],
) -> TensorEntry:
    """An output tensor: floating point in bf16, all others as they are."""
    change = changed.get(key)
    new = DTYPE if dtype.is_floating_point else dtype

    def load() -> torch.Tensor:
        tensor = read_tensor(file, key)
        return (tensor if change is None else change(tensor)).to(new)

    return TensorEntry(key, new, shape, load)


def _untied_weights(
    tree: _ModelTree,
    adapter: AdapterWeights,
    places: dict[str, str],
    lora: dict[str, str],
) -> dict[str, tuple[tuple[int, ...], str, Change]]:
    """Weights that the merged model needs and the base does not store: an output embedding that was
    tied to the input embedding and that is changed apart from it now.

    Returns:
        By name: shape, the base's key that it starts from, and the change.
    """
    if tree.tied is None or tree.tied[1] in places:
        return {}
    source, output = tree.tied
    trained = {*lora, *adapter.whole} & {source, output}
    whole_input, whole_output = adapter.whole.get(source), adapter.whole.get(output)
    if not trained or (
        whole_input is not None
        and whole_output is not None
        and torch.equal(whole_input, whole_output)
    ):
        adapter.whole.pop(output, None)
        return {}
    if whole_output is not None:
        change: Change = partial(_replaced, whole_output)
    elif output in lora:
        change = partial(_merged, adapter, lora[output])
    else:
        change = torch.clone
    return {output: (tree.shapes[output], places[source], change)}


def _added(
    change: Change, files: list[Path], stored: dict[Path, list[Any]], source: str
) -> torch.Tensor:
    file = next(f for f in files if any(key == source for key, _, _ in stored[f]))
    return change(read_tensor(file, source)).to(DTYPE)


class _ModelTree:
    """Names of a model's weights in the module tree, where adapters name them, and in its files.

    Attributes:
        tied: names of input and output embedding if they share one weight.
        shapes: of all parameters, by name.
    """

    def __init__(self, config: Any) -> None:
        with torch.device("meta"), no_init_weights():
            model = auto_class(config).from_config(config, dtype=DTYPE, trust_remote_code=False)
        self.shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
        self._meta = {name: None for name in self.shapes}
        self._prefix = model.base_model_prefix
        transforms = get_model_conversion_mapping(model)
        self._renamings = [one for one in transforms if isinstance(one, WeightRenaming)]
        self._converters = [one for one in transforms if isinstance(one, WeightConverter)]
        names = {id(module): name for name, module in model.named_modules()}
        source, output = model.get_input_embeddings(), model.get_output_embeddings()
        self.tied = None
        text = config.get_text_config(decoder=True)
        is_tied = getattr(config, "tie_word_embeddings", False) or text.tie_word_embeddings
        if is_tied and output is not None:
            self.tied = (f"{names[id(source)]}.weight", f"{names[id(output)]}.weight")

    def name_of(self, key: str) -> str:
        """Returns the name in the module tree of a tensor in the files."""
        renamed: str = rename_source_key(
            key, self._renamings, self._converters, self._prefix, self._meta
        )[0]
        return renamed


def _write_config(config: Any, folder: Path, *, is_untied: bool) -> None:
    config.dtype = DTYPE
    text = config.get_text_config(decoder=True)
    text.use_cache = True
    if is_untied:
        config.tie_word_embeddings = text.tie_word_embeddings = False
    config.save_pretrained(folder)


def _write_generation_config(
    name: str, config: Any, tokenizer: Any, job: MergeJob, folder: Path
) -> None:
    """Writes how answers are generated; they end where the chat template ends a turn."""
    file = cached_file(name, GENERATION_CONFIG_NAME, _raise_exceptions_for_missing_entries=False)
    if file is None:
        generation = GenerationConfig.from_model_config(config)
    else:
        generation = GenerationConfig.from_pretrained(str(Path(file).parent))
    known = generation.eos_token_id
    ends = [] if known is None else known if isinstance(known, list) else [known]
    stops = tokenizer.convert_tokens_to_ids(stop_tokens(tokenizer, job.load.dataset.date))
    ends = list(dict.fromkeys([*ends, *stops]))
    generation.eos_token_id = ends[0] if len(ends) == 1 else ends
    if generation.pad_token_id is None:
        generation.pad_token_id = tokenizer.pad_token_id
    # `save_pretrained` refuses settings that published files have: a temperature without do_sample
    generation.to_json_file(folder / GENERATION_CONFIG_NAME)


def encoded_eval_rows(job: MergeJob, folder: Path) -> tuple[list[TokenRow], int]:
    """Returns the study's evaluation rows as the tokenizer in `folder` encodes them, and the id of
    its padding token."""
    tokenizer = load_tokenizer(str(folder), is_local=True)
    rows = load_rows(job.load.dataset, job.load.seed)
    encoder = Encoder(tokenizer, job.load.dataset.date)
    encoded = [cut(row, job.load.eval_cutoff_len) for row in encoder.encode_all(rows.eval)]
    return encoded, tokenizer.pad_token_id


def measure(job: MergeJob, folder: Path) -> Losses:
    """Evaluates the model in `folder` on the study's evaluation rows, with its own tokenizer.

    Raises:
        InputError: the folder lacks weights.
    """
    encoded, pad_token_id = encoded_eval_rows(job, folder)
    config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    model, loaded = auto_class(config).from_pretrained(
        folder,
        dtype=compute_dtype(),
        device_map={"": device()},
        attn_implementation=base_model.attention(config),
        trust_remote_code=False,
        output_loading_info=True,
    )
    base_model.refuse_random_weights(str(folder), loaded)
    return evaluate(model, encoded, 1, pad_token_id)
