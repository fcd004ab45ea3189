"""Two processes, gloo, DistributedDataParallel; loaders with workers of their own."""

import torch
import torch.distributed as dist
from sklearn.datasets import load_digits
from torch import nn, optim
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, Dataset, DistributedSampler


class Digits(Dataset):
    def __init__(self):
        images, labels = load_digits(return_X_y=True)
        self.images = torch.tensor(images / 16, dtype=torch.float32)
        self.labels = torch.tensor(labels)

    def __len__(self):
        return 1024

    def __getitem__(self, index):
        return self.images[index], self.labels[index]


def main():
    dist.init_process_group("gloo")
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(64, 64), nn.BatchNorm1d(64), nn.LeakyReLU(0.1), nn.Dropout(0.2), nn.Linear(64, 10)
    )
    model = DistributedDataParallel(model)
    torch.manual_seed(dist.get_rank())  # the processes drop out differently
    data = Digits()
    sampler = DistributedSampler(data, seed=0)
    loader = DataLoader(
        data, batch_size=32, sampler=sampler, num_workers=1, multiprocessing_context="spawn"
    )
    criterion = nn.CrossEntropyLoss()
    optimizer = optim.Adam(model.parameters(), lr=3e-3)
    scheduler = optim.lr_scheduler.OneCycleLR(optimizer, max_lr=1e-2, total_steps=2 * len(loader))
    for epoch in range(2):
        sampler.set_epoch(epoch)
        for n, (images, labels) in enumerate(loader):
            optimizer.zero_grad()
            loss = criterion(model(images), labels)
            loss.backward()
            optimizer.step()
            scheduler.step()
            mean = loss.detach() / dist.get_world_size()
            dist.all_reduce(mean)
            if dist.get_rank() == 0 and n % 4 == 0:
                print(f"epoch {epoch} batch {n} loss {mean.item():.7f}", flush=True)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
