"""A converted model leaves PyTorch: ONNX, and what another runtime computes from it."""

import onnxruntime
import pytest
import torch
import torchvision

from scratch_layers import convert


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
def test_a_converted_resnet18_computes_the_same_in_onnxruntime(tmp_path):
    torch.manual_seed(0)
    model = torchvision.models.resnet18(weights=None)
    model(torch.randn(4, 3, 32, 32))  # running statistics other than 0 and 1
    model.eval()
    ours = convert(model, copy=True).model
    x = torch.randn(2, 3, 32, 32)
    path = tmp_path / "resnet18.onnx"
    torch.onnx.export(ours, (x,), dynamo=True, verbose=False).save(path)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (y,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    expected = model(x)
    # 18 layers of sums of up to 4608 products in two orders; errors add up like a random walk
    bound = 18 * 4608**0.5 * torch.finfo(torch.float32).eps * expected.abs().max()
    assert (torch.from_numpy(y) - expected).abs().max() <= bound
