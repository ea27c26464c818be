ARG IMAGE_NAME=nvidia/cuda
FROM ${IMAGE_NAME}:12.4.1-runtime-ubuntu22.04 as base
ENV NV_CUDA_LIB_VERSION "12.4.1-1"
FROM base as base-amd64
ENV NV_CUDA_CUDART_DEV_VERSION 12.4.127-1
ENV NV_NVML_DEV_VERSION 12.4.127-1
ENV NV_LIBNCCL_DEV_PACKAGE_NAME libnccl-dev
ENV NV_LIBNCCL_DEV_PACKAGE_VERSION 2.21.5-1
ENV NV_LIBNCCL_DEV_PACKAGE ${NV_LIBNCCL_DEV_PACKAGE_NAME}=${NV_LIBNCCL_DEV_PACKAGE_VERSION}+cuda12.4
FROM base-${TARGETARCH}
ARG TARGETARCH
RUN apt-get update && apt-get install -y --no-install-recommends \
    cuda-cudart-dev-12-4=${NV_CUDA_CUDART_DEV_VERSION} \
    cuda-command-line-tools-12-4=${NV_CUDA_LIB_VERSION} \
    cuda-minimal-build-12-4=${NV_CUDA_LIB_VERSION} \
    cuda-libraries-dev-12-4=${NV_CUDA_LIB_VERSION} \
    cuda-nvml-dev-12-4=${NV_NVML_DEV_VERSION} \
    ${NV_LIBNCCL_DEV_PACKAGE} \
    && rm -rf /var/lib/apt/lists/*
RUN apt-mark hold ${NV_LIBNCCL_DEV_PACKAGE_NAME}
ENV LIBRARY_PATH /usr/local/cuda/lib64/stubs
