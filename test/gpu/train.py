# SPDX-License-Identifier: Apache-2.0
"""train.py driver|torch: a training script as people run it in a container.

driver reaches the driver by ctypes and libcuda.so.1, and lists the GPUs; with
torch a small network learns on each GPU, and its loss must fall."""
import sys


def by_ctypes():
    import ctypes

    cuda = ctypes.CDLL("libcuda.so.1")

    def must(what, result):
        if result:
            sys.exit(f"{what} returned {result}")

    version, count = ctypes.c_int(), ctypes.c_int()
    must("cuInit", cuda.cuInit(0))
    must("cuDriverGetVersion", cuda.cuDriverGetVersion(ctypes.byref(version)))
    must("cuDeviceGetCount", cuda.cuDeviceGetCount(ctypes.byref(count)))
    print("cuda", version.value)
    print("devices", count.value)
    for i in range(count.value):
        device, memory, name = ctypes.c_int(), ctypes.c_size_t(), ctypes.create_string_buffer(96)
        must("cuDeviceGet", cuda.cuDeviceGet(ctypes.byref(device), i))
        must("cuDeviceGetName", cuda.cuDeviceGetName(name, len(name), device))
        must("cuDeviceTotalMem", cuda.cuDeviceTotalMem_v2(ctypes.byref(memory), device))
        print(f"device {i} {memory.value >> 20} MiB {name.value.decode()}")
    print("train: ok")


def by_torch():
    import torch

    if not torch.cuda.is_available():
        sys.exit("torch.cuda.is_available() is False")
    count = torch.cuda.device_count()
    print("devices", count)
    for i in range(count):
        device = torch.device("cuda", i)
        torch.manual_seed(0)
        x = torch.rand(4096, 8, device=device)
        y = (x.sum(1, keepdim=True) > 4).float()
        model = torch.nn.Sequential(torch.nn.Linear(8, 64), torch.nn.ReLU(), torch.nn.Linear(64, 1)).to(device)
        optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
        losses = []
        for _ in range(200):
            optimizer.zero_grad()
            loss = torch.nn.functional.binary_cross_entropy_with_logits(model(x), y)
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        right = ((model(x) > 0).float() == y).float().mean().item()
        big = torch.randn(1024, 1024, device=device)
        same = torch.allclose((big @ big).cpu(), big.cpu() @ big.cpu(), rtol=1e-2, atol=1e-1)
        print(f"trained {i} loss {losses[0]:.3f} -> {losses[-1]:.3f}, {right:.1%} right, torch {torch.__version__}, {torch.cuda.get_device_name(i)}")
        if not (loss.is_cuda and losses[-1] < losses[0] / 3 and right > 0.9 and same):
            sys.exit("the network did not learn, or the numbers are wrong")
    print("train: ok")


by_torch() if sys.argv[1:] == ["torch"] else by_ctypes()
