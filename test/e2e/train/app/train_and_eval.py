# SPDX-License-Identifier: Apache-2.0
"""Reaches the driver as a framework does, through libcuda.so.1 by its name,
lists the GPUs, and fits a line (on the processor: a simulated GPU computes
nothing) so that there is something to evaluate."""
import ctypes
import os
import sys


def check(what, result):
    if result:
        sys.exit(f"{what} returned {result}")


cuda = ctypes.CDLL("libcuda.so.1")
check("cuInit", cuda.cuInit(0))
version, count = ctypes.c_int(), ctypes.c_int()
check("cuDriverGetVersion", cuda.cuDriverGetVersion(ctypes.byref(version)))
check("cuDeviceGetCount", cuda.cuDeviceGetCount(ctypes.byref(count)))
print(f"CUDA {version.value // 1000}.{version.value % 1000 // 10}, {count.value} GPUs")
for i in range(count.value):
    device, memory = ctypes.c_int(), ctypes.c_size_t()
    name = ctypes.create_string_buffer(96)
    check("cuDeviceGet", cuda.cuDeviceGet(ctypes.byref(device), i))
    check("cuDeviceGetName", cuda.cuDeviceGetName(name, len(name), device))
    check("cuDeviceTotalMem", cuda.cuDeviceTotalMem_v2(ctypes.byref(memory), device))
    print(f"GPU {i}: {name.value.decode()}, {memory.value >> 20} MiB")
with open("/proc/self/maps") as maps:
    print("loaded", *sorted({line.split()[-1] for line in maps if "libcuda" in line}))

a, b = 0.0, 0.0
for epoch in range(int(os.environ["EPOCHS"])):
    for x in (0.0, 0.5, 1.0, 1.5) * 100:
        error = a * x + b - (2 * x + 1)
        a, b = a - 0.2 * error * x, b - 0.2 * error
print(f"trained y = {a:.2f} x + {b:.2f}")
sys.exit(0 if abs(a - 2) < 0.01 and abs(b - 1) < 0.01 else "the model did not converge")
