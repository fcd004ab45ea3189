"""A small transformer under torch.compile, averaged by EMA and SWA, saved and loaded whole."""

import copy
import io

import torch
import torch.nn.functional as F
from torch import nn
from torch.optim import RAdam, swa_utils
from torch.optim.lr_scheduler import ExponentialLR


class Block(nn.Module):
    def __init__(self, width, heads, norm_layer=nn.LayerNorm):
        super().__init__()
        self.norm1 = norm_layer(width)
        self.attention = nn.MultiheadAttention(width, heads, dropout=0.1, batch_first=True)
        self.norm2 = norm_layer(width)
        self.up = nn.Linear(width, 4 * width)
        self.down = nn.Linear(4 * width, width)

    def forward(self, x):
        y = self.norm1(x)
        x = x + self.attention(y, y, y, need_weights=False)[0]
        return x + F.dropout(self.down(F.gelu(self.up(self.norm2(x)))), 0.1, self.training)


class Model(nn.Module):
    """Whether there are more ones than zeros among the tokens, and how many."""

    def __init__(self, width=32):
        super().__init__()
        self.embed = nn.Embedding(4, width)
        self.blocks = nn.ModuleList([Block(width, 4) for _ in range(2)])
        self.norm = nn.BatchNorm1d(width)
        self.head = nn.Linear(width, 2)

    def forward(self, tokens):
        x = self.embed(tokens)
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x.mean(1)))


def batches(count, seed):
    generator = torch.Generator().manual_seed(seed)
    for _ in range(count):
        tokens = torch.randint(4, (32, 16), generator=generator)
        ones, zeros = ((tokens == value).sum(1) for value in (1, 0))
        yield tokens, (ones > zeros).float(), ones / 16


def loss_of(output, more, share):
    classes, values = output.unbind(1)
    return F.binary_cross_entropy_with_logits(classes, more) + F.smooth_l1_loss(values, share)


if __name__ == "__main__":
    torch.manual_seed(3)
    model = Model()
    step = torch.compile(lambda *batch: loss_of(model(batch[0]), *batch[1:]), fullgraph=True)
    ema = swa_utils.AveragedModel(model, multi_avg_fn=swa_utils.get_ema_multi_avg_fn(0.9))
    swa = torch.optim.swa_utils.AveragedModel(model)
    optimizer = RAdam(model.parameters(), lr=3e-3)
    scheduler = ExponentialLR(optimizer, gamma=0.98)
    averaging = swa_utils.SWALR(optimizer, swa_lr=1e-3, anneal_epochs=5)

    for n, batch in enumerate(batches(30, seed=0)):
        optimizer.zero_grad()
        loss = step(*batch)
        loss.backward()
        optimizer.step()
        ema.update_parameters(model)
        if n < 20:
            scheduler.step()
        else:
            swa.update_parameters(model)
            averaging.step()
        print(f"step {n} loss {loss.item():.7f} lr {optimizer.param_groups[0]['lr']:.6f}")

    swa_utils.update_bn((batch[0] for batch in batches(8, seed=0)), swa)
    saved = io.BytesIO()
    torch.save(copy.deepcopy(swa.module), saved)
    saved.seek(0)
    loaded = torch.load(saved, weights_only=False)
    for name, candidate in {"last": model, "ema": ema, "swa": swa, "loaded": loaded}.items():
        candidate.eval()
        with torch.no_grad():
            losses = [loss_of(candidate(batch[0]), *batch[1:]) for batch in batches(4, seed=1)]
        print(f"{name}: validation loss {sum(losses).item() / 4:.7f}")
