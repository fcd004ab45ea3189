"""timm's parts, put together as its own training script puts them together."""

import timm
import torch
from sklearn.datasets import load_digits
from timm.data import Mixup
from timm.loss import SoftTargetCrossEntropy
from timm.optim import create_optimizer_v2
from timm.scheduler import create_scheduler_v2
from timm.utils import AverageMeter, ModelEmaV3, NativeScaler, accuracy, random_seed

EPOCHS = 3


def main():
    random_seed(42, 0)
    digits = load_digits()
    x = torch.tensor(digits.images / 16, dtype=torch.float32)[:, None]
    x = torch.nn.functional.interpolate(x, scale_factor=4)  # 32 x 32
    y = torch.tensor(digits.target)

    model = timm.create_model(
        "resnet10t", in_chans=1, num_classes=10, drop_rate=0.1, drop_path_rate=0.1
    )
    optimizer = create_optimizer_v2(model, opt="adamw", lr=2e-3, weight_decay=0.05)
    updates = 6
    scheduler, epochs = create_scheduler_v2(
        optimizer, "cosine", num_epochs=EPOCHS, warmup_epochs=1, updates_per_epoch=updates
    )
    mixup = Mixup(mixup_alpha=0.2, cutmix_alpha=1.0, num_classes=10)
    train_loss, validate_loss = SoftTargetCrossEntropy(), torch.nn.CrossEntropyLoss()
    ema = ModelEmaV3(model, decay=0.9)
    loss_scaler = NativeScaler(device="cpu")

    for epoch in range(epochs):
        model.train()
        losses = AverageMeter()
        for update in range(updates):
            batch = torch.randint(1400, (32,))
            images, targets = mixup(x[batch], y[batch])
            loss = train_loss(model(images), targets)
            optimizer.zero_grad()
            loss_scaler(
                loss, optimizer, clip_grad=1.0, clip_mode="norm", parameters=model.parameters()
            )
            ema.update(model, step=epoch * updates + update)
            losses.update(loss.item(), len(batch))
            scheduler.step_update(epoch * updates + update)
            print(f"Train: {epoch} [{update}/{updates}]  Loss: {losses.val:.6g} ({losses.avg:.6g})")
        ema.eval()
        with torch.no_grad():
            output = ema(x[1400:])
        top1, top5 = accuracy(output, y[1400:], topk=(1, 5))
        print(f"Test: Loss: {validate_loss(output, y[1400:]):.6g}  Acc@1: {top1:.3f} ({top5:.3f})")
        scheduler.step(epoch + 1)


if __name__ == "__main__":
    main()
