"""A convolutional network on scikit-learn's digits: one file, one loop, modules by their names."""

import argparse

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F
import torch.optim as optim
from sklearn.datasets import load_digits
from torch.utils.data import DataLoader, TensorDataset


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(1, 8, 3, stride=2, padding=1)
        self.bn1 = nn.BatchNorm2d(8)
        self.conv2 = nn.Conv2d(8, 16, 3, padding=1)
        self.bn2 = nn.BatchNorm2d(16)
        self.dropout = nn.Dropout(0.25)
        self.fc1 = nn.Linear(16 * 2 * 2, 32)
        self.fc2 = nn.Linear(32, 10)

    def forward(self, x):
        x = F.relu(self.bn1(self.conv1(x)))
        x = F.max_pool2d(F.relu(self.bn2(self.conv2(x))), 2)
        x = self.dropout(torch.flatten(x, 1))
        x = F.dropout(torch.tanh(self.fc1(x)), 0.1, training=self.training)
        return F.log_softmax(self.fc2(x), dim=1)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--lr", type=float, default=0.05)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    np.random.seed(args.seed)

    digits = load_digits()
    order = np.random.permutation(len(digits.images))
    x = torch.tensor(digits.images[order] / 16, dtype=torch.float32)[:, None]
    y = torch.tensor(digits.target[order])
    train = DataLoader(TensorDataset(x[:1024], y[:1024]), batch_size=64, shuffle=True)

    model = Net()
    optimizer = optim.SGD(model.parameters(), lr=args.lr, momentum=0.9, weight_decay=5e-4)
    for epoch in range(args.epochs):
        model.train()
        for step, (images, labels) in enumerate(train):
            optimizer.zero_grad()
            loss = F.nll_loss(model(images), labels)
            loss.backward()
            optimizer.step()
            if step % 2 == 0:
                print(f"Train epoch {epoch} [{step}/{len(train)}]\tLoss: {loss.item():.4f}")
        model.eval()
        with torch.no_grad():
            logits = model(x[1024:])
            test_loss = F.nll_loss(logits, y[1024:]).item()
            correct = (logits.argmax(1) == y[1024:]).sum().item()
        print(f"Test: loss {test_loss:.4f}, correct {correct}/{len(y) - 1024}")


if __name__ == "__main__":
    main()
