"""What two runs printed is compared number by number, and times are not."""

from __future__ import annotations

import math

import pytest

from training.printed import compare, equal_as_printed, lines, relative_difference, widest

NUMBERS = {
    "loss: 2.3026 (2.4) lr 1e-3": ["2.3026", "2.4", "1e-3"],
    "x=-.5 y=+3 nan -inf 1-2": ["-.5", "+3", "nan", "-inf", "1", "2"],
    "resnet18 conv1 acc1: 12.5 torch 2.14.1 v1.0": ["12.5"],
    "tensor(0.6931, grad_fn=<NllLossBackward0>)": ["0.6931"],
    "accuracy 98.5%, 355/360.": ["98.5", "355", "360"],
    "{'loss': 0.5, 'step': 3}": ["0.5", "3"],
}

TIMES = {
    "Epoch: [0]  [ 5/10]  eta: 0:00:05  lr: 0.1  img/s: 33.1  loss: 2.3 (2.4)  time: 0.5123  "
    "data: 0.1002  max mem: 0": ["0", "5", "10", "0.1", "2.3", "2.4"],
    "Train: 0 [ 5/10]  Loss: 6.90 (6.91)  Time: 0.512s,  250.01/s  (0.512s,  250.01/s)  "
    "LR: 1.0e-05  Data: 0.300 (0.300)": ["0", "5", "10", "6.90", "6.91", "1.0e-05"],
    "| epoch   1 |   200/ 2983 batches | lr 20.00 | ms/batch 12.34 | loss  7.63": [
        "1", "200", "2983", "20.00", "7.63",
    ],
    "Epoch: [0][ 10/50]\tTime  3.105 (  3.1)\tData  1.2 (  1.2)\tLoss 7.0e+00 (7.1e+00)": [
        "0", "10", "50", "7.0e+00", "7.1e+00",
    ],
    "100%|#####| 10/10 [00:12<00:00,  1.23it/s, loss=0.5]": ["100", "10", "10", "0.5"],
    "2026-11-24 13:05:12,123 INFO loss=0.5 took 12.5 seconds": ["0.5"],
    "2026-11-24T13:05:12 step 3 (95.1 ms, 31.5 samples/s, 812 MiB)": ["3"],
    "elapsed time 0.5 (12.3 img/s), loss 4": ["4"],
    "[s] saved at 0x7f00aa in 3 min": [],
    "5 samples, 6 hidden, 7 sets": ["5", "6", "7"],
}  # fmt: skip


@pytest.mark.parametrize("text", [*NUMBERS, *TIMES])
def test_numbers_are_read_and_times_rates_sizes_and_dates_are_not(text):
    found = [number for line in lines(text) for number in line.numbers]
    assert found == {**NUMBERS, **TIMES}[text]


def test_a_warning_is_taken_out_with_its_line_of_source():
    text = "loss 1\n/a/b.py:12: UserWarning: lr 0.5\n  warn(3)\nloss 2\n"
    assert [(line.number, line.numbers) for line in lines(text)] == [(1, ("1",)), (4, ("2",))]


def test_what_the_caller_names_is_taken_out():
    assert [line.numbers for line in lines("loss 1 port 29500\n", [r"port \d+"])] == [("1",)]


def test_a_progress_bar_is_read_as_lines():
    assert [line.numbers for line in lines("a 1\ra 2\r\nb 3")] == [("1",), ("2",), ("3",)]


@pytest.mark.parametrize(
    ("a", "b", "equal"),
    [
        ("0.123", "0.124", True),  # rounding to three digits can part them
        ("0.123", "0.125", False),
        ("1.00e-05", "1.01e-05", True),
        ("1.23", "1.234", True),  # the coarser of the two decides
        ("0.1", "0.2", False),  # two learning rates
        ("0.00012", "0.00013", False),
        ("100", "101", False),  # a count
        ("1e3", "1000", True),
        ("nan", "nan", True),
        ("nan", "1.00", False),
        ("inf", "inf", True),
        ("inf", "-inf", False),
    ],
)
def test_equal_as_printed_is_within_a_unit_of_the_last_digit(a, b, equal):
    assert equal_as_printed(a, b) == equal_as_printed(b, a) == equal


def test_relative_difference_is_that_to_the_larger_one():
    assert relative_difference("1.0", "-3.0") == pytest.approx(4 / 3)
    assert relative_difference("0", "1e-30") == 1
    assert relative_difference("nan", "nan") == relative_difference("inf", "inf") == 0
    assert relative_difference("nan", "1") == relative_difference("inf", "1") == math.inf


BEGIN = "begin\nloss 0.5000\nloss 0.4000\n"


def test_the_first_and_the_largest_difference_are_found_with_their_step():
    found = compare(
        lines(BEGIN + "loss 0.3000\nlr 0.100\n"), lines(BEGIN + "loss 0.3010\nlr 0.110\n")
    )
    assert (found.numbers, found.differing, found.words) == (4, 2, None)
    assert found.first.pair == ("0.3000", "0.3010")
    assert (found.first.theirs.number, found.first.step) == (4, 3)
    assert found.largest == pytest.approx(0.01 / 0.11)
    assert found.largest_at.theirs.text == "lr 0.100"
    assert "2 of 4 numbers differ" in str(found)
    assert "line 4 (step 3), 0.3000 | 0.3010: loss 0.3000" in str(found)


def test_a_tolerance_allows_more_than_the_digits_do():
    a, b = lines("loss 0.5000"), lines("loss 0.5010")
    assert compare(a, b).first is not None
    assert compare(a, b, rtol=1e-3).first is not None  # 0.001 / 0.501 is more
    assert compare(a, b, rtol=2e-3).first is None


@pytest.mark.parametrize("other", ["begin\nLoss 0.5000\n", "begin\n", BEGIN + "more\n"])
def test_other_words_end_the_comparison_and_are_a_difference(other):
    found = compare(lines(BEGIN), lines(other))
    assert found.words is not None
    assert found.first == found.words
    assert found.largest == 0
    assert "other words" in str(found)


def test_equal_runs_are_said_to_be_equal():
    assert str(compare(lines(BEGIN), lines(BEGIN))) == "equal as printed, all 2 numbers"


def test_the_widest_of_some_comparisons_has_the_earliest_and_the_largest():
    texts = ["a 1.000\nb 1.000", "a 1.100\nb 1.000", "a 1.000\nb 3.000"]
    native = lines(texts[0])
    found = widest([compare(native, lines(text)) for text in texts])
    assert found.first.theirs.text == "a 1.000"
    assert found.largest == pytest.approx(2 / 3)
    assert widest([compare(native, native)]).first is None
