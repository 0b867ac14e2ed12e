"""Cards as people write them, and the card in this machine."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from vram_search.errors import InputError
from vram_search.gpu import FakeReader, GpuDevice
from vram_search.gpu import this_card as module
from vram_search.spec import Card
from vram_search.spec.card import card_names, load_card
from vram_search.spec.card_names import card_of_device, find_card, matching_cards
from vram_search.spec.load import load_study
from vram_search.units import MIB


@pytest.mark.parametrize(
    ("text", "slug"),
    [
        ("RTX 4060 Ti 16GB", "rtx-4060-ti-16gb"),
        ("NVIDIA GeForce RTX 5060 Ti 16 GB", "rtx-5060-ti-16gb"),
        ("3090", "rtx-3090-24gb"),
        ("RTX 3090 24576MiB", "rtx-3090-24gb"),
        ("rtx4060ti16g", "rtx-4060-ti-16gb"),
        ("RTX 4070 12Go", "rtx-4070-12gb"),
        ("4090M", "rtx-4090-laptop-16gb"),
        ("1x H100", "h100-80gb"),
        ("4090 24G x 1", "rtx-4090-24gb"),
        ("RTX 8000", "quadro-rtx-8000-48gb"),
        ("A6000 Ada", "rtx-6000-ada-48gb"),
        ("Tesla V100S-PCIE-32GB", "v100-32gb"),
        ("Colab T4", "t4-16gb"),
        ("g5.xlarge", "a10g-24gb"),
        ("p4d.24xlarge", "a100-40gb"),
        ("RTX4090", "rtx-4090-24gb"),
        ("RTX 4090 D", "rtx-4090-d-24gb"),
        ("rtx-3090-ti", "rtx-3090-ti-24gb"),
        ("2080ti", "rtx-2080-ti-11gb"),
        ("4070ti super", "rtx-4070-ti-super-16gb"),
        ("4090 laptop", "rtx-4090-laptop-16gb"),
        ("Titan RTX", "titan-rtx-24gb"),
        ("L40S", "l40s-48gb"),
        ("tesla t4", "t4-16gb"),
        ("A100-SXM4-80GB", "a100-80gb"),
        ("A100-PCIE-40GB", "a100-40gb"),
        ("H100", "h100-80gb"),
        ("H100 PCIe", "h100-80gb"),
        ("RTX A6000", "rtx-a6000-48gb"),
        ("RTX 6000 Ada", "rtx-6000-ada-48gb"),
        ("4090d", "rtx-4090-d-24gb"),
        ("4080s", "rtx-4080-super-16gb"),
        ("4070 tis", "rtx-4070-ti-super-16gb"),
        ("RTX 4000 SFF Ada", "rtx-4000-ada-20gb"),
        ("rtx2060 super", "rtx-2060-super-8gb"),
        ("RTX PRO 6000", "rtx-pro-6000-96gb"),
        ("RTX A5000 Laptop GPU", "rtx-a5000-laptop-16gb"),
        ("H200 NVL", "h200-nvl-141gb"),
        ("Tesla V100-SXM2-32GB", "v100-32gb"),
        ("rtx_3090", "rtx-3090-24gb"),
        ("5080 mobile", "rtx-5080-laptop-16gb"),
        ("T1000", "t1000-8gb"),
        ("GPU 0: NVIDIA A100-SXM4-80GB (UUID: GPU-5c6d7e8f-aaaa-bbbb-cccc-dddd0000)", "a100-80gb"),
        ("NVIDIA GeForce RTX 4090, 24564 MiB, 550.54.14", "rtx-4090-24gb"),
        ("|   0  NVIDIA GeForce RTX 3090        Off | 00000000:01:00.0 Off |", "rtx-3090-24gb"),
        ("0, NVIDIA RTX A6000, 49140 MiB", "rtx-a6000-48gb"),
        ("Tesla T4 15360MiB", "t4-16gb"),  # less than its name says
        ("NVIDIA L40S 46068 MiB", "l40s-48gb"),
        ("MSI GeForce RTX 3060 Ventus 2X 12G OC", "rtx-3060-12gb"),
        ("Gigabyte RTX 4070 Ti SUPER Gaming OC 16G PCIe 4.0 x16", "rtx-4070-ti-super-16gb"),
        ("my RTX 3090", "rtx-3090-24gb"),
        ("vast.ai 3090", "rtx-3090-24gb"),
        ("a100 sxm 80", "a100-80gb"),
        ("4060ti 16", "rtx-4060-ti-16gb"),
        ("GeForce RTX 2080 Super with Max-Q Design", "rtx-2080-super-laptop-8gb"),
        ("RTX PRO 6000 Blackwell Max-Q Workstation Edition", "rtx-pro-6000-96gb"),
        ("ml.p3.2xlarge", "v100-16gb"),
        ("Standard_NC24ads_A100_v4", "a100-80gb"),
        ("Standard_NC40ads_H100_v5", "h100-nvl-94gb"),
        ("a2-highgpu-1g", "a100-40gb"),
        ("g2-standard-4", "l4-24gb"),
        ("l40sx1", "l40s-48gb"),
        ("EVGA GeForce RTX 3080 XC3 Ultra Gaming 10GB", "rtx-3080-10gb"),
        ("ASUS ROG Strix RTX 4090 OC", "rtx-4090-24gb"),
        ("Palit GeForce RTX 4060 Ti Dual 16GB", "rtx-4060-ti-16gb"),
        ("NVIDIA GeForce RTX 3060 Laptop GPU, 6144", "rtx-3060-laptop-6gb"),
        ("cuda:0 NVIDIA GeForce RTX 4090", "rtx-4090-24gb"),
        ("_CudaDeviceProperties(name='NVIDIA GeForce RTX 3090', major=8)", "rtx-3090-24gb"),
        ("Ryzen 7 5800X3D + RTX 3080 Ti", "rtx-3080-ti-12gb"),
        ("gpu_1x_h100_pcie", "h100-80gb"),
        ("RTX 3060 12,0 GB", "rtx-3060-12gb"),
    ],
)
def test_card_is_found_by_the_name_that_people_write(text: str, slug: str) -> None:
    assert find_card(text)["name"] == slug


@pytest.mark.parametrize("slug", card_names())
def test_every_card_is_found_by_its_title_and_slug(slug: str) -> None:
    assert find_card(slug)["name"] == slug
    assert matching_cards(load_card(slug)["title"]) == [slug]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("P100", "too old: Pascal came before Volta"),
        ("7900XTX", "no NVIDIA card"),
        ("DGX Spark", "shares the machine's memory"),
        ("Jetson Orin 64GB", "shares the machine's memory"),
        ("W7900", "no NVIDIA card"),
        ("Tesla P40", "too old: Pascal"),
        ("GTX 1080 Ti", "too old: Pascal"),
        ("1080ti", "too old: Pascal"),
        ("Titan Xp", "too old: Pascal"),
        ("Quadro P6000", "too old: Pascal"),
        ("K80", "too old: Kepler"),
        ("dual 3090", "write '3090'; several GPUs"),
        ("cuda:0", "write auto"),
        ("cpu", "a run uses the CPU"),
        ("GTX 1650", "less than the 6 GB"),
        ("M40", "too old: Maxwell"),
        ("GTX 970", "too old: Maxwell"),
        ("RX 7900 XTX", "no NVIDIA card"),
        ("MI300X", "no NVIDIA card"),
        ("M2 Max", "no NVIDIA card"),
        ("2x 3090", "runs on one card: write '3090'"),
        ("RTX 4090 x2", "runs on one card: write 'RTX 4090'"),
        ("RTX 4090 24GB x2 (48GB)", "runs on one card: write 'RTX 4090 24GB"),
        ("2\u00d7RTX 3090", "runs on one card: write 'RTX 3090'"),
        ("kaggle 2xT4", "runs on one card: write 'kaggle T4'"),
        ("3090 + 3060", "runs on one card: write '3090'"),
        ("3090,3090", "runs on one card: write '3090'"),
        ("2 GPUs RTX 3090", "runs on one card: write 'RTX 3090'"),
        ("zwei RTX 3090", "runs on one card: write 'RTX 3090'"),
        ("gpu_8x_a100_80gb_sxm4", "runs on one card: write 'gpu a100 80gb sxm4'"),
        ("RX 580", "no NVIDIA card"),
        ("NVIDIA H100 80GB HBM3 MIG 1g.10gb", "a MIG slice or a virtual GPU"),
        ("NVIDIA A10-24Q", "a MIG slice or a virtual GPU"),
        ("AMD Ryzen AI Max+ 395 128GB", "no NVIDIA card"),
        ("Strix Halo", "no NVIDIA card"),
        ("trn1.2xlarge", "no NVIDIA card"),
        ("RTX 4060 Ti 16GB laptop", "did you mean rtx-4060-ti-16gb"),
        ("RTX 4090 9999", "did you mean rtx-4090-24gb"),
        ("CPU only", "a run uses the CPU"),
        ("12", "write 12GB"),
        ("30GB", "known sizes are 6, 8, 10,"),
        ("1000000GB", "for another one write a mapping with total_bytes"),
        ("2080 Ti 22GB", "shipped are rtx-2080-ti-11gb; for another size"),
    ],
)
def test_card_that_cannot_be_used_is_refused_with_the_reason(text: str, words: str) -> None:
    with pytest.raises(ValueError, match=re.escape(words)):
        find_card(text)


def test_size_alone_promises_no_more_than_any_card_of_that_size() -> None:
    card = Card.model_validate(find_card("16GB"))
    assert find_card("16384 MiB") == find_card("16 GB VRAM") == find_card("16GB")
    of_size = [load_card(slug) for slug in card_names() if slug.endswith("-16gb")]
    assert card.total_bytes <= min(one["total_bytes"] for one in of_size) + 2**30
    assert card.total_bytes - card.reserve_bytes == min(
        one["total_bytes"] - one["reserve_bytes"] for one in of_size
    )


def test_name_of_several_cards_lists_them() -> None:
    with pytest.raises(ValueError, match="several cards: rtx-3060-12gb, rtx-3060-8gb"):
        find_card("RTX 3060")
    with pytest.raises(ValueError, match="did you mean quadro-rtx-6000-24gb, rtx-6000-ada-48gb"):
        find_card("RTX 6000")


@pytest.mark.parametrize("text", ["", "rtx 9999", "7GB", "../../etc/passwd", "a" * 5000])
def test_name_that_is_no_card_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="no card"):
        find_card(text)


def device(name: str, mib: int, *, wddm: bool = False) -> GpuDevice:
    return GpuDevice(0, "GPU-1", name, mib * MIB, "580", "13.0", "8.9", wddm, True)


def test_auto_is_the_card_in_this_machine(
    monkeypatch: pytest.MonkeyPatch, write_study: Callable[..., Path], tmp_path: Path
) -> None:
    here = device("NVIDIA GeForce RTX 4090", 24564, wddm=True)
    monkeypatch.setattr(module, "open_reader", lambda: FakeReader(here, []))
    card = Card.model_validate(module.card_here())
    assert card.name == "rtx-4090-24gb"
    assert card.platform == "windows"
    study = load_study(write_study(card="auto"), card_here=module.card_here)
    assert study.card == card


def test_unknown_device_is_described_by_its_own_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    here = device("NVIDIA Something New", 20000)
    monkeypatch.setattr(module, "open_reader", lambda: FakeReader(here, []))
    card = Card.model_validate(module.card_here())
    assert card.total_bytes == 20000 * MIB
    assert card.title == "NVIDIA Something New"
    assert card.assumed


def test_auto_without_a_gpu_says_what_to_write(
    monkeypatch: pytest.MonkeyPatch, write_study: Callable[..., Path]
) -> None:
    monkeypatch.setattr(module, "open_reader", lambda: None)
    with pytest.raises(InputError, match=re.escape("card: auto found no NVIDIA GPU")):
        load_study(write_study(card="auto"), card_here=module.card_here)


def test_device_of_another_size_is_not_the_shipped_card() -> None:
    assert card_of_device("NVIDIA GeForce RTX 4090", 12000 * MIB) is None


def test_very_long_name_of_a_card_is_refused_without_a_search() -> None:
    with pytest.raises(ValueError, match="at most 200 characters") as found:
        find_card("rtx " * 50_000 + "5060")
    assert len(str(found.value)) < 200
