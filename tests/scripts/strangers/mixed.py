"""Mixed precision: a gradient scaler, warmup and cosine, clipping; names imported one by one."""

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.amp import GradScaler, autocast
from torch.nn.modules.batchnorm import BatchNorm1d
from torch.nn.utils import clip_grad_norm_
from torch.optim.adamw import AdamW
from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR, SequentialLR

torch.manual_seed(0)

images, labels = load_digits(return_X_y=True)
x = torch.tensor(images / 16, dtype=torch.float32)
y = torch.tensor(labels)

model = nn.Sequential(
    nn.Linear(64, 128),
    BatchNorm1d(128),
    nn.SiLU(),
    nn.Dropout(0.1),
    nn.Linear(128, 128),
    nn.LayerNorm(128),
    nn.GELU(),
    nn.Linear(128, 10),
)
for module in model.modules():
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.05)
        nn.init.zeros_(module.bias)
    elif isinstance(module, (BatchNorm1d, nn.LayerNorm)):
        nn.init.ones_(module.weight)

criterion = nn.CrossEntropyLoss(label_smoothing=0.1)
optimizer = AdamW(model.parameters(), lr=2e-3, weight_decay=0.05)
warmup = LinearLR(optimizer, start_factor=0.1, total_iters=8)
cosine = CosineAnnealingLR(optimizer, T_max=32)
scheduler = SequentialLR(optimizer, [warmup, cosine], milestones=[8])
scaler = GradScaler("cpu", init_scale=2.0**10)

for step in range(40):
    batch = torch.randint(len(x), (128,))
    optimizer.zero_grad(set_to_none=True)
    with autocast("cpu", dtype=torch.bfloat16):
        loss = criterion(model(x[batch]), y[batch])
    scaler.scale(loss).backward()
    scaler.unscale_(optimizer)
    norm = clip_grad_norm_(model.parameters(), max_norm=1.0)
    scaler.step(optimizer)
    scaler.update()
    scheduler.step()
    print(step, loss.item(), norm.item(), scheduler.get_last_lr()[0])

model.eval()
with torch.inference_mode():
    accuracy = (model(x).argmax(1) == y).float().mean()
print("accuracy", round(accuracy.item(), 4))
