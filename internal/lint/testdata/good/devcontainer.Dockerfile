FROM nvidia/cuda:12.4.1-cudnn-devel-ubuntu22.04
ARG DEBIAN_FRONTEND=noninteractive
RUN apt-get update && apt-get install -y --no-install-recommends git vim sudo && rm -rf /var/lib/apt/lists/*
RUN useradd -m dev
USER dev
