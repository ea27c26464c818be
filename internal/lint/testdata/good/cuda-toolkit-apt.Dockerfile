FROM ubuntu:22.04
ADD https://developer.download.nvidia.com/compute/cuda/repos/ubuntu2204/x86_64/cuda-keyring_1.1-1_all.deb /tmp/k.deb
RUN dpkg -i /tmp/k.deb && apt-get update && apt-get install -y --no-install-recommends cuda-toolkit-12-6 cuda-nvcc-12-6 libcudnn9-dev-cuda-12 && rm -rf /var/lib/apt/lists/*
ENV PATH=/usr/local/cuda/bin:$PATH NVIDIA_DRIVER_CAPABILITIES=compute,utility
