FROM ubuntu:24.04
ENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility,graphics
RUN apt-get update && apt-get install -y --no-install-recommends libvulkan1 vulkan-tools libxext6 libegl1 && rm -rf /var/lib/apt/lists/*
CMD ["vulkaninfo", "--summary"]
