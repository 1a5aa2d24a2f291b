"""What a user of PyTorch does, timed in milliseconds: products of matrices, steps of training, loaders with workers.

It is run on the host and in containers, where the machine's python3 has PyTorch.
"""

import time

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset


def timed(name: str, work, times: int) -> None:
    """Prints how long the work takes for that many times, after some that do not count."""
    for _ in range(5):
        work()
    torch.cuda.synchronize()
    began = time.monotonic()
    for _ in range(times):
        work()
    torch.cuda.synchronize()
    print(f"{name} {(time.monotonic() - began) * 1e3:.3f}")


def train_step(model: nn.Module, optimizer: torch.optim.Optimizer, batch: torch.Tensor, target: torch.Tensor) -> None:
    optimizer.zero_grad()
    nn.functional.cross_entropy(model(batch), target).backward()
    optimizer.step()


def main() -> None:
    torch.manual_seed(1)
    matrix = torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16)
    timed("torch_matmul_8192_bf16_x50_ms", lambda: matrix @ matrix, 50)

    layers = nn.TransformerEncoderLayer(512, 8, 2048, batch_first=True)
    model = nn.Sequential(nn.TransformerEncoder(layers, 4), nn.Flatten(), nn.Linear(512 * 64, 10)).cuda()
    optimizer = torch.optim.AdamW(model.parameters())
    batch, target = torch.randn(32, 64, 512, device="cuda"), torch.randint(0, 10, (32,), device="cuda")
    timed("torch_training_x100_ms", lambda: train_step(model, optimizer, batch, target), 100)

    # The workers hand their batches over through /dev/shm.
    data = TensorDataset(torch.randn(2048, 3, 64, 64))
    loader = DataLoader(data, batch_size=64, num_workers=2, pin_memory=True)
    began = time.monotonic()
    total = sum(part.cuda(non_blocking=True).sum() for (part,) in loader)
    torch.cuda.synchronize()
    assert torch.isfinite(total)
    print(f"torch_loader_ms {(time.monotonic() - began) * 1e3:.3f}")


if __name__ == "__main__":
    main()
