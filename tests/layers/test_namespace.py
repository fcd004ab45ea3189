"""The face of the library: every name that torch has in the families that are written by hand."""

import importlib
import inspect
from pathlib import Path

import pytest
import torch.nn.functional as F
from torch import nn

import scratch_layers
from scratch_layers import functional

FAMILIES = ("activation", "batchnorm", "dropout", "instancenorm", "loss", "normalization")
ELSEWHERE = {
    "MultiheadAttention": "is made of linear layers and a softmax: no activation",
}
"""What torch keeps in a module of a family that does not belong to it."""

OTHER_FAMILIES = {
    "affine_grid", "assert_int_or_pair", "bilinear", "boolean_dispatch", "channel_shuffle",
    "conv_tbc", "cosine_similarity", "embedding", "embedding_bag", "fold", "grid_sample",
    "interpolate", "linear", "multi_head_attention_forward",
    "native_channel_shuffle", "normalize",
    "one_hot", "pad", "pairwise_distance", "pdist", "pixel_shuffle", "pixel_unshuffle",
    "scaled_dot_product_attention", "unfold",
}  # fmt: skip
"""Functions of torch.nn.functional for convolution, linear maps, distances, images, attention."""

PREFIXES = ("_", "conv", "grouped_", "handle_torch", "has_torch", "scaled_", "upsample")


def public_functions():
    """The functions of torch.nn.functional that could be of one of the families."""
    for name, value in vars(F).items():
        typing = getattr(value, "__module__", "") == "typing"
        if inspect.ismodule(value) or inspect.isclass(value) or not callable(value) or typing:
            continue
        if name in OTHER_FAMILIES or name.startswith(PREFIXES) or "pool" in name:
            continue
        yield name


@pytest.mark.parametrize("family", FAMILIES)
def test_every_layer_of_torch_is_here(family):
    theirs = set(importlib.import_module(f"torch.nn.modules.{family}").__all__)
    missing = {name for name in theirs if not hasattr(scratch_layers, name)}
    assert missing <= set(ELSEWHERE), "written by hand, or named with the reason"
    for name in theirs - missing:
        ours = getattr(scratch_layers, name)
        assert issubclass(ours, getattr(nn, name))
        assert ours.__module__.startswith("scratch_layers.")


def test_every_function_of_torch_is_here_with_its_signature():
    names = list(public_functions())
    assert len(names) > 60
    missing = [name for name in names if not hasattr(functional, name)]
    assert not missing, "written by hand, or added to OTHER_FAMILIES"
    for name in set(names) & set(functional.__all__):
        try:
            theirs = inspect.signature(getattr(F, name))
        except ValueError:  # a builtin, whose signature is in its first line of documentation
            continue
        if list(theirs.parameters) == ["args", "kwargs"]:  # dispatches on an argument
            continue
        ours = inspect.signature(getattr(functional, name))
        given, wanted = (
            [(p.name, p.kind, p.default) for p in s.parameters.values()] for s in (ours, theirs)
        )
        assert given == wanted, name


def test_the_faces_hand_on_every_name_of_their_families():
    for face in (scratch_layers, functional):
        assert sorted(face.__all__) == sorted(set(face.__all__))
        for name in face.__all__:
            assert getattr(face, name) is not None
    handed_on = set(scratch_layers.__all__) | set(functional.__all__)
    for path in Path(scratch_layers.__file__).parent.glob("*.py"):
        module = importlib.import_module(f"scratch_layers.{path.stem}")
        if path.stem in scratch_layers.__all__ or path.stem == "__init__":
            continue  # a module that is itself a name of the face
        assert set(getattr(module, "__all__", ())) <= handed_on, path.stem
