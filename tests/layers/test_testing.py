"""The conformance kit for layers: what it takes, what it says, and whom it leaves in peace."""

import json
import re
import subprocess
import sys

import pytest
import torch
from mutation import broken
from torch import nn

import scratch_layers
from scratch_layers.testing import (
    CHECKS,
    KNOWN,
    Case,
    ConformanceError,
    Subject,
    check_module,
    checks_for,
    normal,
)
from scratch_layers.testing.__main__ import main
from scratch_layers.testing.closed_forms.dropout import bound
from scratch_layers.testing.parity import LAYOUTS
from scratch_layers.testing.subject import Equation, near
from scratch_optim.testing.kit import select

QUICK = ["equals_the_reference_in_float64", "equals_the_reference_in_float32"]


class Swish(nn.Module):
    """x σ(β x), with a β for each channel: no layer of torch's."""

    def __init__(self, channels, wrong=0.0):
        super().__init__()
        self.beta = nn.Parameter(torch.ones(channels))
        self.wrong = wrong

    def forward(self, x):
        return x * torch.sigmoid(self.beta * x) + self.wrong * x * x


def swish(x, beta):
    return x * torch.sigmoid(beta * x)


class Norm(nn.Module):
    """Batch normalization as people write it, of torch's operations."""

    def __init__(self, num_features, eps=1e-5, momentum=0.1, affine=True, track_running_stats=True):
        super().__init__()
        self.eps, self.momentum, self.track = eps, momentum, track_running_stats
        if affine:
            self.weight = nn.Parameter(torch.ones(num_features))
            self.bias = nn.Parameter(torch.zeros(num_features))
        else:
            self.weight = self.bias = None
        if track_running_stats:
            self.register_buffer("running_mean", torch.zeros(num_features))
            self.register_buffer("running_var", torch.ones(num_features))
            self.register_buffer("num_batches_tracked", torch.tensor(0))

    def forward(self, x):
        if x.dim() != 4:
            raise ValueError(f"expected 4D input (got {x.dim()}D input)")
        if self.training or not self.track:
            mean, var = x.mean((0, 2, 3)), x.var((0, 2, 3), unbiased=False)
            m = x.numel() / x.shape[1]
            if self.track:
                with torch.no_grad():
                    self.num_batches_tracked += 1
                    a = self.momentum or 1 / self.num_batches_tracked
                    self.running_mean += a * (mean - self.running_mean)
                    self.running_var += a * (var * m / (m - 1) - self.running_var)
        else:
            mean, var = self.running_mean, self.running_var
        y = (x - mean[:, None, None]) / (var + self.eps)[:, None, None].sqrt()
        if self.weight is not None:
            y = y * self.weight[:, None, None] + self.bias[:, None, None]
        return y


SWISH = [Case(normal(4, 3), (3,)), Case(normal(2, 5, 3), (3,), label="three")]


def failures(report):
    return {result.check for result in report.failures}


def test_a_layer_of_ones_own_is_checked_against_its_equation():
    report = check_module(Swish, swish, cases=SWISH)
    outcomes = {result.check: result.outcome for result in report.results}
    assert outcomes["equals_the_reference_in_float64"] == "passed"
    assert outcomes["as_exact_as_the_reference"] == "passed"
    assert outcomes["has_signature_repr_and_attributes"] == "not applicable"
    assert report.reference.endswith("swish")


def test_a_term_that_is_not_in_the_equation_is_found_and_shown():
    wrong = [Case(normal(4, 3), (3,), {"wrong": 1e-9})]
    with pytest.raises(ConformanceError, match="the output is") as caught:
        check_module(Swish, swish, cases=wrong, checks=QUICK)
    assert "wrong=1e-09" in str(caught.value)


def test_an_equation_without_an_argument_for_a_parameter_is_refused_with_its_name():
    report = check_module(Swish, lambda x: x, cases=SWISH, checks=QUICK, on_fail="collect")
    assert "no argument for the parameter 'beta'" in report.failures[0].reason


def test_of_batch_normalization_as_people_write_it_the_kit_finds_what_is_missing_and_no_more():
    assert failures(check_module(Norm, nn.BatchNorm2d, on_fail="collect")) == {
        "equals_the_reference_in_all_shapes",  # one value for each channel makes an x̂ of 0
        "refuses_the_sizes_that_the_reference_refuses",
        "takes_the_dtypes_that_the_reference_takes",  # float64 with parameters of float32
        "autocast_gives_the_references_dtype",  # float32 of bfloat16
        "takes_an_empty_batch",  # the running mean becomes nan
        "a_refused_input_changes_no_state",  # the batch is counted
        "remembers_the_batches",  # 1 / num_batches_tracked is float32, the statistics float64
    }


def test_the_kit_knows_a_layer_by_reference_name_or_what_it_inherits_from():
    class Mine(nn.LayerNorm):
        pass

    assert Subject(Mine).name == "LayerNorm"
    assert Subject(Norm, nn.BatchNorm2d).name == "BatchNorm2d"
    assert Subject(scratch_layers.Dropout).family == "dropout"
    assert Subject(Swish, swish, cases=SWISH).family is None


def test_who_has_no_case_is_told_to_pass_one():
    with pytest.raises(ValueError, match=r"how to make and call Swish: pass cases=\[Case"):
        check_module(Swish)
    with pytest.raises(TypeError, match=r"inherits from torch\.nn\.Module"):
        check_module(torch.optim.SGD)
    with pytest.raises(ValueError, match=r"drop_in=True needs a class as reference"):
        check_module(Swish, swish, cases=SWISH, drop_in=True)
    with pytest.raises(ValueError, match="ulps must be at least 0, but is -1"):
        check_module(Swish, swish, cases=SWISH, ulps=-1)


def test_each_family_is_asked_its_own_closed_forms_only():
    of_norm = {check.name for check in checks_for(Subject(nn.BatchNorm2d))}
    of_dropout = {check.name for check in checks_for(Subject(nn.Dropout))}
    assert "remembers_the_batches" in of_norm - of_dropout
    assert "draws_anew" in of_dropout - of_norm
    assert len({check.name for check in CHECKS}) == len(CHECKS)
    assert all(check.proves for check in CHECKS)


def test_equal_bits_are_asked_for_by_ulps_0():
    report = check_module(nn.BatchNorm2d, nn.BatchNorm2d, ulps=0, checks=QUICK)
    assert report.ok
    report = check_module(Norm, nn.BatchNorm2d, ulps=0, checks=QUICK, on_fail="collect")
    assert "not the same bits" in report.failures[0].reason
    assert check_module(Norm, nn.BatchNorm2d, ulps=64, checks=QUICK).ok


def test_of_known_defects_every_check_and_layer_exists():
    for title, reasons in KNOWN.items():
        subject = Subject(getattr(nn, title.rpartition(".")[2]))
        assert subject.title == title
        select(checks_for(subject), reasons)


def test_drawn_cases_shrink_to_a_program_that_runs(tmp_path):
    mistake = "d_var * 2 / m", "d_var / m"
    with broken("scratch_layers", "batchnorm.py", *mistake) as library:
        report = check_module(
            library.BatchNorm1d,
            nn.BatchNorm1d,
            checks=["equals_the_reference_on_drawn_cases"],
            on_fail="collect",
        )
    (failure,) = report.failures
    program = failure.reason[failure.reason.index("import torch") :]
    program = re.sub(r"scratch_layers_replica_\d+", "scratch_layers", program)
    shapes = re.findall(r"x0 = torch.tensor\((.*), dtype", program)
    assert len(eval(shapes[0])) <= 3, "the smallest batch that shows it"
    file = tmp_path / "program.py"
    file.write_text(program)
    run = subprocess.run([sys.executable, file], capture_output=True, text=True, check=True)
    ours, theirs = run.stdout.split("torch.nn.modules.batchnorm")
    assert "gradient by input 0" in ours
    assert "gradient by input 0" in theirs


def test_the_command_line_writes_a_report_and_exits_by_the_outcome(tmp_path, capsys):
    file = tmp_path / "report.json"
    arguments = ["torch.nn:Softplus", "--reference", "torch.nn:Softplus", "--checks", *QUICK]
    assert main([*arguments, "--json", str(file)]) == 0
    assert "2 passed" in capsys.readouterr().out
    assert json.loads(file.read_text())["ok"]
    other = ["torch.nn:GELU", "--reference", "torch.nn:SiLU", "--input", "4,3", "--checks", *QUICK]
    assert main(other) == 1
    assert "the output is" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["torch.nn:Linear"], "how to make and call Linear"),
        (["torch.nn:Linear", "--args", "3", "4"], "needs --input"),
        (["torch.nn:Linear", "--input", "4,x"], "--input takes a shape"),
        (["torch.nn:NoSuch"], "cannot find"),
        (["torch.nn:ReLU", "--checks", "no_such"], "there is no check 'no_such'"),
    ],
)
def test_the_command_line_refuses_what_makes_no_sense(arguments, words, capsys):
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert words in capsys.readouterr().err


def test_a_layer_with_arguments_is_checked_from_the_command_line(capsys):
    arguments = ["torch.nn:Linear", "--input", "5,3", "--args", "3", "2", "--options", "bias=False"]
    assert main([*arguments, "--checks", "gradients_are_right", "has_a_repr"]) == 0
    assert "2 passed" in capsys.readouterr().out


def test_layouts_keep_the_values_and_change_how_they_lie_in_memory():
    x = torch.randn(2, 3, 4, 5)
    for name, laid in LAYOUTS.items():
        y = laid(x)
        assert torch.equal(y, x) or name == "expanded"
        assert y.stride() != x.stride() or y.storage_offset() > 0
    assert LAYOUTS["offset"](x).data_ptr() % 16 == 4


def test_near_tells_a_rounding_from_a_mistake():
    x = torch.ones(3, dtype=torch.float64)
    near(x + 4 * 2**-52, x, [x], "x")
    with pytest.raises(AssertionError, match=r"x is 4.5e\+03 epsilons of 1 off"):
        near(x + 1e-12, x, [x], "x")
    with pytest.raises(AssertionError, match="expected"):
        near(x.float(), x, [x], "x")


def test_an_equation_takes_state_arguments_and_mode_by_name():
    seen = {}

    def f(x, weight, eps, training, **others):
        seen.update(others, eps=eps, training=training)
        return x * weight[0]

    layer = nn.BatchNorm1d(3)
    Equation(f, layer, {"eps": 0.5, "num_features": 3}).eval()(torch.ones(2, 3))
    assert seen["eps"] == 0.5
    assert seen["training"] is False
    assert seen["running_var"].tolist() == [1.0] * 3
    assert seen["running_var"] is not layer.running_var


def test_a_rate_within_the_bound_is_as_rare_as_it_says():
    """Hoeffding's bound at n = 100 for one in ten, of 2000 rates of 100 fair draws."""
    torch.manual_seed(0)
    rates = torch.bernoulli(torch.full((2000, 100), 0.5)).mean(1)
    assert ((rates - 0.5).abs() > bound(100, 0.1)).double().mean() <= 0.1
    assert bound(10_000) < 0.04
