"""The estimate command: what it answers, what it refuses, and that it answers at once, without torch."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from tune_jobs.__main__ import main
from tuning_common import cli

ROOT = Path(__file__).resolve().parents[2]
KOBART = [
    "estimate", "--model", "kobart", "--batch-size", "8", "--encoder-max-len", "512", "--decoder-max-len", "128",
    "--precision", "bf16",
]  # fmt: skip
GIB = 2**30


@pytest.fixture(autouse=True)
def nothing_downloaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))


def ask(capsys: pytest.CaptureFixture[str], *more: str) -> dict[str, object]:
    assert cli.run(main, [*KOBART, "--format", "json", *more]) == 0
    answer: dict[str, object] = json.loads(capsys.readouterr().out)
    return answer


def test_json_has_what_the_design_promises(capsys: pytest.CaptureFixture[str]) -> None:
    answer = ask(capsys, "--gpu", "rtx 3090")
    promised = {
        "train_allocated_bytes", "train_reserved_bytes", "generate_allocated_bytes", "generate_reserved_bytes",
        "context_bytes", "device_bytes", "upper_bytes", "gpu_share", "peak_phase", "terms", "model_parameters",
    }  # fmt: skip
    assert promised <= set(answer)
    assert answer["model_parameters"] == 123_859_968
    assert sum(answer["terms"].values()) == answer["device_bytes"] < answer["upper_bytes"]
    assert (answer["gpu"], answer["gpu_share"], answer["fits"]) == ("NVIDIA GeForce RTX 3090", 0.1666, True)
    assert answer["peak_phase"].split("/")[0] == "train"


def test_seconds_follow_the_card_and_say_where_they_come_from(capsys: pytest.CaptureFixture[str]) -> None:
    cards = ("T4", "L4", "rtx 3090", "A100-SXM4-80GB")
    found = [ask(capsys, "--gpu", card) for card in cards]
    steps = [answer["step_s"] for answer in found]
    assert steps == sorted(steps, reverse=True)
    assert 0.05 < steps[1] < 0.2
    # By hand: 6 operations for each weight and token that passes it, for 8 dialogues; attention adds a tenth.
    encoder, decoder, cross, head = 6 * 7_077_888, 6 * 8_257_536, 6 * 1_179_648, 30_000 * 768
    by_hand = 6 * 8 * (512 * (encoder + cross) + 128 * (decoder + head))
    assert all(by_hand < answer["step_flops"] < 1.2 * by_hand for answer in found)
    assert all(0 < answer["busy"] <= 1 for answer in found)
    assert all(answer["evaluation_s"] > answer["generation_s"] > 0 for answer in found)
    assert "NVIDIA L4 data sheet" in found[1]["seconds_source"]
    assert "not measured" in found[1]["seconds_source"]
    unnamed = ask(capsys)
    assert (unnamed["step_s"], unnamed["busy"], unnamed["seconds_source"]) == (None, None, None)


def test_more_of_anything_needs_more(capsys: pytest.CaptureFixture[str]) -> None:
    plain = ask(capsys)
    for more in (["--batch-size", "16"], ["--encoder-max-len", "900"], ["--decoder-max-len", "300"]):
        assert ask(capsys, *more)["train_allocated_bytes"] > plain["train_allocated_bytes"]
    assert ask(capsys, "--num-beams", "4")["generate_allocated_bytes"] > plain["generate_allocated_bytes"]
    checkpointed = ask(capsys, "--gradient-checkpointing")
    assert checkpointed["train_allocated_bytes"] < plain["train_allocated_bytes"]


def test_accumulation_means_smaller_pieces_of_the_same_batch(capsys: pytest.CaptureFixture[str]) -> None:
    answer = ask(capsys, "--batch-size", "32", "--gradient-accumulation-steps", "4")
    assert (answer["batch_size"], answer["micro_batch"]) == (32, 8)
    assert answer["train_allocated_bytes"] > ask(capsys)["train_allocated_bytes"]  # gradients stay beside activations


def test_several_cards_are_held_whole_and_save_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    """Half the batch on each of two cards needs more than the same half alone: DDP's buckets and NCCL's buffers."""
    two, half = ask(capsys, "--ranks", "2", "--gpu", "L4"), ask(capsys, "--batch-size", "4", "--gpu", "L4")
    assert (two["ranks"], two["micro_batch"], two["gpu_share"]) == (2, 4, 2.0)
    assert two["device_bytes"] > half["device_bytes"]
    assert half["gpu_share"] < 1
    cli.run(main, [*KOBART, "--ranks", "2", "--gpu", "L4"])
    shown = capsys.readouterr().out
    assert "batch 8 as 4 x 1 on each of 2 cards" in shown
    assert "share: 2 cards, held whole, as each has the whole model" in shown


def test_a_model_that_is_divided_needs_less_of_each_card(capsys: pytest.CaptureFixture[str]) -> None:
    two = ("--ranks", "2", "--gpu", "L4")
    whole, part = ask(capsys, *two), ask(capsys, *two, "--fsdp")
    assert (whole["layout"], part["layout"]) == ("data-parallel", "divided")
    assert part["train_allocated_bytes"] < whole["train_allocated_bytes"]
    assert part["terms"]["optimizer"] == pytest.approx(whole["terms"]["optimizer"] / 2, rel=1e-3)
    cli.run(main, [*KOBART, *two, "--fsdp"])
    shown = capsys.readouterr().out
    assert "batch 8 as 4 x 1 on each of 2 cards that the model is divided among" in shown
    assert "share: 2 cards, held whole, as each has its part of the model" in shown


def test_text_is_for_people(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(main, [*KOBART, "--gpu", "rtx 3090"]) == 0
    text = capsys.readouterr().out
    lines = text.splitlines()
    assert lines[0] == ("kobart (bart, 123,859,968 parameters, tied output head) on NVIDIA GeForce RTX 3090 (24.0 GiB)")
    assert max(line.count("█") for line in lines) == 32
    assert "share: 0.1666 of a card, as " in text
    assert "6 such trials fit beside each other and would each take 6.0 times as long as alone" in text
    assert "note: margin: default, no measured peak yet" in text
    assert "not measured on this project" in text


def test_a_card_that_is_too_small_gets_a_plan(capsys: pytest.CaptureFixture[str]) -> None:
    answer = ask(capsys, "--batch-size", "64", "--gpu-memory", "8GiB")
    assert (answer["fits"], answer["gpu_share"]) == (False, None)
    assert answer["gpu_fraction"] > 1
    plan = answer["plan"]
    assert plan["fits"] is True
    assert plan["micro_batch"] * plan["gradient_accumulation_steps"] == 64
    assert plan["upper_bytes"] <= answer["gpu_usable_bytes"]
    assert cli.run(main, [*KOBART, "--batch-size", "64", "--gpu-memory", "8GiB"]) == 0
    text = capsys.readouterr().out
    assert "does not fit on GPU with 8.00 GiB" in text
    assert "plan: batch 64 as " in text


def test_a_dev_batch_needs_no_more_than_training_unless_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    flags = ("--num-beams", "4", "--gpu", "T4")
    asked = ask(capsys, *flags, "--generation-batch-size", "64")
    assert (asked["peak_phase"], asked["generation_batch"]) == ("generate/decode", 64)
    chosen = ask(capsys, *flags)
    assert chosen["peak_phase"].startswith("train/")
    assert chosen["upper_bytes"] < asked["upper_bytes"]


def test_an_impossible_budget_says_what_would_fit(capsys: pytest.CaptureFixture[str]) -> None:
    plan = ask(capsys, "--budget", "1GiB")["plan"]
    assert plan["fits"] is False
    assert plan["smallest_bytes"] > GIB
    assert plan["remedies"][-1].startswith("a card of at least ")


def test_everything_that_is_wrong_is_said_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    request = ["estimate", "--model", "kobrt", "--batch-size", "0", "--gpu", "a1000", "--budget", "1x"]
    assert cli.run(main, request) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: estimate: 4 problems")
    for text in ("'a1000' is unknown", "batch_size must be at least 1", "did you mean 'kobart'", "is no size"):
        assert text in said


@pytest.mark.parametrize(
    ("more", "text"),
    [
        (["--encoder-max-len", "2000"], "encoder_max_len must be at most 1026, the positions of kobart, but is 2000"),
        (["--gradient-accumulation-steps", "3"], "gradient_accumulation_steps must divide batch_size 8, but is 3"),
        (["--gpu-memory", "200MiB"], "GPU memory must be more than"),
    ],
)
def test_values_that_cannot_be_are_refused(capsys: pytest.CaptureFixture[str], more: list[str], text: str) -> None:
    assert cli.run(main, [*KOBART, *more]) == 2
    assert text in capsys.readouterr().err


def test_a_configuration_that_is_no_language_model_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "vit", "image_size": 224}')
    assert cli.run(main, ["estimate", "--model", str(tmp_path)]) == 2
    said = capsys.readouterr().err
    assert "is no language model that can be estimated: 2 problems; it reads more than text (image_size)" in said


def test_a_head_of_its_own_costs_its_states(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mt5 = ["--model", "mt5", "--batch-size", "1", "--optimizer", "adamw_fused", "--precision", "fp32"]
    tied, untied = ask(capsys, *mt5, "--tied-head"), ask(capsys, *mt5, "--untied-head")
    assert untied["model_parameters"] - tied["model_parameters"] == 250_112 * 512
    assert untied["terms"]["weights"] - tied["terms"]["weights"] == 250_112 * 512 * 4
    assert ask(capsys, *mt5)["untied_head"] is True  # nothing downloaded: the larger case, which it says
    snapshot = tmp_path / "hub" / "models--google--mt5-small" / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    save_file({"shared.weight": np.zeros((4, 2), dtype=np.float32)}, snapshot / "model.safetensors")
    assert ask(capsys, *mt5)["untied_head"] is False


def test_measured_peaks_move_the_margin(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ledger = tmp_path / "calibration.jsonl"
    line = {
        "family": "bart", "gpu": "NVIDIA L4", "precision": "bf16", "torch_version": "2.13.0",
        "predicted_device_bytes": 1000, "measured_device_bytes": 1010,
    }  # fmt: skip
    ledger.write_text("".join(json.dumps(line) + "\n" for _ in range(20)) + '{"fam')
    assert cli.run(main, [*KOBART, "--gpu", "L4", "--calibration", str(ledger), "--format", "json"]) == 0
    captured = capsys.readouterr()
    answer = json.loads(captured.out)
    assert (answer["margin"], answer["margin_peaks"]) == (0.01, 20)
    assert "1 unreadable line" in captured.err


ALONE = """
import resource, sys
from tune_jobs.__main__ import main
code = main(sys.argv[1:])
heavy = {"torch", "transformers", "ray", "wandb", "optuna", "matplotlib"} & {name.split(".")[0] for name in sys.modules}
print(code, sorted(heavy), resource.getrusage(resource.RUSAGE_SELF).ru_utime, file=sys.stderr)
"""


@pytest.mark.parametrize("model", ["kobart", "kogpt2", "t5", "t5-small", "t5-base", "mt5", "mt5-base"])
def test_it_answers_at_once_and_without_torch(model: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", ALONE, "estimate", "--model", model, "--batch-size", "8", "--precision", "bf16"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    said, numbers = done.stderr.strip().rpartition("\n")[::2]
    code, heavy, cpu_s = numbers.split(" ", 2)
    assert (code, heavy, said) == ("0", "[]", "")  # and nothing is traced: all templates are shipped
    assert float(cpu_s) < 1.5
    assert "share: " in done.stdout


def test_batches_of_the_training_data_are_replayed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # caches go here
    dialogues = [
        {
            "fname": str(number),
            "dialogue": "#Person1#: 안녕하세요. " * (1 + number % 9),
            "summary": "인사한다. " * (1 + number % 4),
        }
        for number in range(60)
    ]
    data = tmp_path / "train.jsonl"
    data.write_text("".join(json.dumps(dialogue, ensure_ascii=False) + "\n" for dialogue in dialogues))
    command = [
        "estimate",
        "--model",
        "tiny-bart",
        "--batch-size",
        "4",
        "--precision",
        "fp32",
        "--train-file",
        str(data),
    ]
    assert cli.run(main, [*command, "--format", "json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["dialogues_replayed"] == 60
    assert answer["train_reserved_bytes"] >= answer["train_allocated_bytes"]
    assert cli.run(main, command) == 0
    assert "replayed with the lengths of 60 dialogues" in capsys.readouterr().out
    assert cli.run(main, [*command[:-1], str(tmp_path / "none.jsonl")]) == 2
