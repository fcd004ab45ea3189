"""The command line: every mistake is named with its remedy, and a run needs no option at all."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import cifar10
from training import options
from training.checkpoint import load
from training.options import Config, make_config, parse

pytestmark = pytest.mark.usefixtures("elsewhere")

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "scripts" / "cifar10.py"
CUDA = torch.cuda.is_available()
SMALL = [
    "--epochs", "1", "--batch-size", "646", "--device", "cpu", "--layers", "torch",
    "--optim", "torch", "--no-tensorboard", "--quiet",
]  # fmt: skip


def run_script(*argv: str, **kwargs) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPT), *argv]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, **kwargs)


def refuse(capsys, *argv: str) -> str:
    """Run, expect exit code 2 and nothing written; returns the message."""
    before = sorted(Path.cwd().rglob("*"))
    try:
        code = cifar10.main(argv)
    except SystemExit as error:  # from argparse
        code = error.code
    out, err = capsys.readouterr()
    assert code == 2, (out, err)
    assert "Traceback" not in err
    assert "error: " in err
    assert sorted(Path.cwd().rglob("*")) == before
    return err


IMPOSSIBLE = {
    "--lr -0.1": ("--lr -0.1", "a finite number above 0"),
    "--lr nan": ("--lr nan", "a finite number above 0"),
    "--lr 0": ("--lr 0.0", "above 0"),
    "--weight-decay -1": ("--weight-decay -1.0", "0 or more"),
    "--dropout 1": ("--dropout 1.0", "[0, 1)"),
    "--label-smoothing 1.5": ("--label-smoothing 1.5", "[0, 1)"),
    "--epochs 0": ("--epochs 0", "above 0"),
    "--batch-size 0": ("--batch-size 0", "1 or more"),
    "--batch-size 5000": ("--batch-size 5000", "1293 images", "Give 1293 or less"),
    "--warmup 70": ("--warmup 70.0", "less than the 60 epochs"),
    "--seed -1": ("--seed -1", "2**32"),
    "--clip-grad-norm -1": ("--clip-grad-norm -1.0", "0 or more"),
    "--checkpoint-every -5": ("--checkpoint-every -5", "0 or more"),
    "--explain -1": ("--explain -1", "0 or more"),
    "--explain --no-tensorboard": ("--explain 100", "--no-tensorboard"),
    "--explain 5 --fsdp": ("--explain 5", "--fsdp"),
    "--clip-grad-value nan": ("--clip-grad-value nan", "0 or more"),
    "--clip-grad-norm 1 --clip-grad-ratio 0.1": ("--clip-grad-norm 1.0", "--clip-grad-ratio"),
    "--momentum 0.9": ("--momentum 0.9", "adam has none", "--optimizer sgd"),
    "--optimizer rprop --weight-decay 0.1": ("--weight-decay 0.1", "rprop has none"),
    "--optimizer lion --optim torch": ("--optim torch", "no lion", "--optim scratch"),
    "--optimizer muon --optim torch": ("--optim torch", "no muon", "--optim scratch"),
    "--optimizer muon --fused": ("--fused", "Muon has no such way"),
    "--nesterov": ("--nesterov True", "only --optimizer sgd"),
    "--optimizer sgd --momentum 0 --nesterov": ("--nesterov True", "above 0"),
    "--fused --foreach": ("--fused True", "not together with --foreach"),
    "--layers torch --kernels compiled": ("--kernels compiled", "--layers scratch"),
    "--layers torch --fused-layers": ("--fused-layers", "--layers scratch"),
    "--optimizer rmsprop --optim torch --layers torch --fused": ("--fused", "RMSprop has no such"),
    "--activation Foo": ("Foo", "GELU"),
    "--norm group --fused-layers": ("--norm group", "--fused-layers"),
    "--imbalance 0": ("--imbalance 0", "(0, 1]"),
    "--imbalance 1e-9": ("--imbalance 1e-09", "of class 3", "larger ratio"),
    "--accumulate 65": ("--accumulate 65", "at most --batch-size, 64"),
    "--focal 2": ("--focal 2.0", "--layers scratch"),
    "--patience 3 --no-holdout": ("--patience 3", "--no-holdout"),
    "--schedule plateau --no-holdout": ("--schedule plateau", "--no-holdout"),
    "--ema-decay 0.9": ("--ema-decay 0.9", "Only --average ema"),
    "--auxiliary-lr 0.9": ("--auxiliary-lr 0.9", "Only --optimizer muon"),
    "--ns-steps 3": ("--ns-steps 3", "Only --optimizer muon"),
    "--no-whitening-bias": ("--whitening-bias False", "no whitening layer"),
    "--hidden 16": ("--hidden 16", "Only --model mlp"),
    "--init glorot": ("--init glorot", "Only --model mlp"),
    "--norm-last": ("--norm-last True", "Only --model mlp"),
    "--betas 0.9 1": ("--betas 0.9 1.0", "[0, 1)"),
    "--optimizer sgd --betas 0.9 0.95": ("--betas 0.9 0.95", "sgd has none", "adamw"),
    "--lr-floor 1": ("--lr-floor 1.0", "[0, 1)"),
    "--schedule step --lr-floor 0.1": ("--lr-floor 0.1", "step does not fall to it"),
    "--milestones 0.3": ("--milestones 0.3", "Only --schedule step"),
    "--schedule step --milestones 0.3 1": ("--milestones 0.3 1.0", "between 0 and 1"),
    "--warmup-steps -1": ("--warmup-steps -1", "0 or more"),
    "--warmup-steps 5 --warmup 2": ("--warmup-steps 5", "not together with --warmup 2"),
    "--warmup-steps 1200": ("--warmup-steps 1200", "the whole run has 1200 steps, 20 an epoch"),
    "--model mlp --hidden 16 0": ("--hidden 16 0", "1 or more"),
    "--model mlp --init gloro": ("gloro", "glorot"),
    "--model mlp --norm none --norm-last": ("--norm-last True", "no normalization"),
    "--model mlp --norm group": ("--norm group", "batch, layer or none"),
    "--model mlp --norm instance": ("--norm instance", "batch, layer or none"),
    "--model mlp --resolutions 8 16": ("--resolutions 8 16", "a resnet"),
    "--model mlp --fused-layers --layers scratch": ("--fused-layers True", "a resnet"),
    "--model mlp --normalize-weights": ("--normalize-weights True", "no convolutions"),
    "--model mlp --channels-last": ("--channels-last True", "no convolutions"),
    "--model mlp --no-whitening-bias": ("--whitening-bias False", "no whitening layer"),
    "--model mlp --accumulate 64": ("--batch-size 64", "a single image", "--norm layer"),
    "--model mlp --batch-size 7 --accumulate 3": ("--batch-size 7", "3 parts", "single image"),
    "--mixup -1": ("--mixup -1.0", "0 or more"),
    "--data-dir /tmp": ("--data-dir /tmp", "--dataset cifar10"),
    "--dataset cifar10 --data-dir nowhere": ("--data-dir nowhere", "no such folder"),
    "--resume nowhere": ("--resume nowhere", "no file nowhere"),
    "--resume auto": ("--resume auto", "Give --log-dir"),
    "--target 0.9": ("--target 0.9", "--seeds 2 or more"),
    "--seeds 0": ("--seeds 0", "1 or more"),
    "--amp fp16 --device cpu": ("--amp fp16", "--device cuda", "bf16"),
    "--model resnet99": ("resnet99", "resnet20"),
    "--augment flop": ("flop", "cutout"),
    "--epochs many": ("many",),
    "--no-such-option": ("--no-such-option",),
}


@pytest.mark.parametrize("line", IMPOSSIBLE)
def test_what_cannot_be_is_refused_with_the_value_and_the_remedy(capsys, line):
    message = refuse(capsys, *line.split(), *([] if "--layers" in line else ["--layers", "torch"]))
    for part in IMPOSSIBLE[line]:
        assert part in message


@pytest.mark.skipif(CUDA, reason="needs a machine without a CUDA device")
def test_cuda_where_there_is_none_is_refused_without_a_traceback():
    done = run_script("--device", "cuda", "--log-dir", "logs")
    assert done.returncode == 2
    assert done.stderr.startswith("cifar10.py: error: --device cuda: ")
    assert "Use --device cpu" in done.stderr
    assert "Traceback" not in done.stderr
    assert not Path("logs").exists()


def test_help_says_what_every_option_defaults_to():
    done = run_script("--help", env={**os.environ, "COLUMNS": "100"})
    assert done.returncode == 0
    shown = " ".join(done.stdout.split())
    for action in options.parser()._actions[1:]:
        assert action.option_strings[0] in shown
        assert "(default: " in action.help or action.dest == "resume", action.dest
    for optimizer, values in options.BY_OPTIMIZER.items():
        for name in values.keys() - {"nesterov"}:
            assert f"{optimizer} {values[name]:g}" in shown
    for dataset, values in options.BY_DATASET.items():
        assert f"{dataset} {values['epochs']}" in shown
        assert f"{dataset} {values['batch_size']}" in shown
        assert f"{dataset} {values['pictures_every']}" in shown


def test_every_option_is_in_the_configuration_and_back():
    fields = set(Config.__dataclass_fields__)
    of_a_series = {"seeds", "target"}  # no properties of a run
    assert {action.dest for action in options.parser()._actions[1:]} == fields | of_a_series


def test_defaults_are_complete_for_every_data_set_and_optimizer():
    for dataset in options.DATASETS:
        for optimizer in options.OPTIMIZERS:
            config = parse(["--dataset", dataset, "--optimizer", optimizer, "--device", "cpu"])
            assert config.lr == options.BY_OPTIMIZER[optimizer]["lr"]
    assert parse([]).optim == parse([]).layers == "scratch"
    assert parse(["--augment", "none"]).augment == ()


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """The folder of a run of one epoch. Not to be changed."""
    folder = tmp_path_factory.mktemp("finished")
    assert cifar10.main([*SMALL, "--log-dir", str(folder)]) == 0
    return folder


OTHERS = {
    "--model resnet32": "--model resnet20, not resnet32",
    "--optimizer sgd": "--optimizer adam, not sgd",
    "--dataset cifar10": "--dataset digits, not cifar10",
    "--lr 0.5": "--lr 0.003, not 0.5",
    "--seed 3": "--seed 0, not 3",
    "--epochs 9": "--epochs 1, not 9",
    "--augment flip crop": "--augment crop, not flip crop",
    "--augment none": "--augment crop, not none",
    "--hidden 16 8": "--hidden 128 64 32, not 16 8",
}


@pytest.mark.parametrize("line", OTHERS)
def test_checkpoint_of_another_run_is_refused(capsys, finished, line):
    before = {path: path.read_bytes() for path in finished.iterdir()}
    assert OTHERS[line] in refuse(capsys, "--resume", str(finished), *line.split())
    assert {path: path.read_bytes() for path in finished.iterdir()} == before


def test_options_that_repeat_those_of_the_checkpoint_are_welcome(finished):
    config = make_config(resume=str(finished), model="resnet20", augment=("crop",), seed=0)
    assert config.log_dir == config.checkpoint_dir == str(finished)


def test_truncated_checkpoint_is_refused_and_left_alone(capsys, finished):
    content = (finished / "last.pt").read_bytes()
    Path("last.pt").write_bytes(content[:-1000])
    assert "last.pt is damaged" in refuse(capsys, "--resume", "last.pt")
    assert Path("last.pt").read_bytes() == content[:-1000]


@pytest.mark.parametrize("option", ["--log-dir", "--checkpoint-dir"])
def test_a_new_run_does_not_overwrite_another(capsys, finished, option):
    before = {path: path.read_bytes() for path in finished.iterdir()}
    message = refuse(capsys, *SMALL, option, str(finished))
    assert "holds another run" in message
    assert "--resume" in message
    assert {path: path.read_bytes() for path in finished.iterdir()} == before


def test_curves_of_an_interrupted_run_are_not_mixed_with_new_ones(capsys):
    Path("run").mkdir()
    Path("run/events.out.tfevents.1.host").write_bytes(b"")
    assert "holds another run" in refuse(capsys, *SMALL, "--log-dir", "run")


def test_a_log_folder_that_is_a_file_is_refused(capsys):
    Path("file").write_text("")
    assert "file is a file" in refuse(capsys, "--log-dir", "file/runs")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_and_sigterm_leave_a_checkpoint_and_the_way_to_go_on(capsys, monkeypatch, number):
    before = [signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM)]
    from training import loop

    augment = loop.augment

    def interrupt(*args):
        signal.raise_signal(number)
        return augment(*args)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "augment", interrupt)
        assert cifar10.main([*SMALL, "--log-dir", "run"]) == 128 + number
    assert [signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM)] == before
    assert "interrupted after step 1 of 2. Go on with --resume run" in capsys.readouterr().err
    assert load(Path("run/last.pt"))["progress"]["steps"] == 1
    assert cifar10.main(["--resume", "run", "--quiet"]) == 0
    assert load(Path("run/last.pt"))["progress"]["steps"] == 2


def test_divergence_ends_in_a_message(capsys):
    code = cifar10.main([*SMALL[2:], "--epochs", "3", "--optimizer", "sgd", "--lr", "1e30"])
    assert code == 1
    err = capsys.readouterr().err
    assert "diverged: " in err
    assert "lower --lr" in err
    assert "Traceback" not in err


def test_a_run_moved_elsewhere_goes_on_there(finished, tmp_path):
    for path in finished.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    before = {path: path.read_bytes() for path in finished.iterdir()}
    assert cifar10.main(["--resume", str(tmp_path), "--quiet"]) == 0
    assert json.loads((tmp_path / "result.json").read_text())["config"]["log_dir"] == str(tmp_path)
    assert {path: path.read_bytes() for path in finished.iterdir()} == before


def test_last_line_has_accuracy_seconds_and_images_per_second(capsys):
    assert cifar10.main([*SMALL, "--log-dir", "run"]) == 0
    out, err = capsys.readouterr()
    result = json.loads(Path("run/result.json").read_text())
    assert out == (
        f"test accuracy {result['test_accuracy']:.2%}, calibration error "
        f"{result['test_calibration_error']:.2%}, after 1 epochs, "
        f"{result['train_seconds']:.1f} s of training, {result['images_per_second']:,.0f} images/s "
        f"({result['total_seconds']:.1f} s in all)\n"
    )
    assert err == ""
    assert {path.name for path in Path("run").iterdir()} == {"last.pt", "best.pt", "result.json"}


def test_several_seeds_end_in_a_table(capsys):
    argv = [*SMALL, "--log-dir", "run", "--seeds", "2", "--target", "0.05", "--resume", "auto"]
    assert cifar10.main(argv) == 0
    out = capsys.readouterr().out
    summary = json.loads(Path("run/summary.json").read_text())
    assert summary["seeds"] == [0, 1]
    assert out.count("test accuracy ") == 2
    row = next(line for line in out.splitlines() if line.startswith("test accuracy, %"))
    assert f" {100 * summary['test_accuracy']['mean']:.3f} " in row
    before = {path: path.stat().st_mtime_ns for path in Path("run").glob("seed-*/*")}
    assert cifar10.main(argv) == 0  # finished: nothing is trained again
    assert {path: path.stat().st_mtime_ns for path in Path("run").glob("seed-*/*")} == before
    assert capsys.readouterr().out == out


@pytest.mark.slow
def test_hand_written_stack_learns_the_digits():
    done = run_script("--epochs", "6", "--log-dir", "run", "--device", "cpu", "--warmup", "2")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert sum(line.startswith("epoch ") for line in lines) == 6
    result = json.loads(Path("run/result.json").read_text())
    assert result["test_accuracy"] > 0.93  # 5 of 5 seeds with either stack
    assert result["config"]["layers"] == result["config"]["optim"] == "scratch"
    assert list(Path("run").glob("events.out.tfevents.*"))


@pytest.mark.parametrize("model", ["resnet20", "mlp"])
def test_hand_written_and_built_in_stack_train_alike(model):
    losses = {}
    for stack in ("scratch", "torch"):
        argv = ["--epochs", "2", "--batch-size", "128", "--device", "cpu", "--no-tensorboard"]
        argv += ["--quiet", "--optim", stack, "--layers", stack, "--log-dir", stack]
        argv += ["--model", model]
        assert cifar10.main([*argv, "--lr", "1e-4", "--schedule", "none"]) == 0
        result = json.loads(Path(stack, "result.json").read_text())
        losses[stack] = [row["train_loss"] for row in result["history"]]
    # float32 rounding in the layers, grown over 20 steps of a small learning rate
    assert losses["scratch"] == pytest.approx(losses["torch"], rel=1e-3)
