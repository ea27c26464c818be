# syntax=docker/dockerfile:1-labs
FROM nvidia/cuda:12.4.1-base-ubuntu22.04
RUN --device=nvidia.com/gpu=all nvidia-smi
CMD ["nvidia-smi"]
