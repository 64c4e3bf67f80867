"""Pictures a second that PyTorch trains the article's network with: scale.py BATCH STEPS.

The same step as `espalier train`: every second picture mirrored, cross-entropy, AdamW.
Prints one figure for each line that it reads, so that it can take turns with others.
"""

import sys
import time

import torch
from torch import nn

batch, steps = int(sys.argv[1]), int(sys.argv[2])
network = nn.Sequential(
    nn.Conv2d(1, 32, 3), nn.ReLU(), nn.MaxPool2d(2),
    nn.Conv2d(32, 64, 3), nn.ReLU(), nn.MaxPool2d(2),
    nn.Flatten(), nn.Linear(1600, 64), nn.ReLU(), nn.Linear(64, 10),
)
assert sum(p.numel() for p in network.parameters()) == 121_930
optimiser = torch.optim.AdamW(network.parameters(), 1e-3)
pictures = torch.randint(0, 256, (batch * 20, 1, 28, 28), dtype=torch.uint8)
labels = torch.randint(0, 10, (batch * 20,))


def step(number):
    part = slice(number % 20 * batch, (number % 20 + 1) * batch)
    x = (pictures[part].float() - 73.0) / 90.0
    mirrored = (torch.rand(batch) < 0.5).view(-1, 1, 1, 1)
    x = torch.where(mirrored, x.flip(3), x)
    loss = nn.functional.cross_entropy(network(x), labels[part])
    optimiser.zero_grad()
    loss.backward()
    optimiser.step()
    return loss.item()


for _ in range(10):
    step(0)
print(torch.__version__, torch.get_num_threads(), flush=True)
for _ in sys.stdin:
    begin = time.perf_counter()
    for number in range(steps):
        step(number)
    print(batch * steps / (time.perf_counter() - begin), flush=True)
