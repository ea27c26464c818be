FROM nvidia/cuda:12.4.1-devel-ubuntu22.04
RUN apt-get update && apt-get install -y --no-install-recommends python3-pip git && rm -rf /var/lib/apt/lists/*
ENV TORCH_CUDA_ARCH_LIST="8.0 9.0" FORCE_CUDA=1
RUN pip install --no-cache-dir torch==2.6.0 --index-url https://download.pytorch.org/whl/cu124 && pip install --no-cache-dir --no-build-isolation flash-attn git+https://github.com/NVlabs/tiny-cuda-nn/#subdirectory=bindings/torch
CMD ["python3", "serve.py"]
