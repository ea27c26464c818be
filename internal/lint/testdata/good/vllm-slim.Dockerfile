FROM python:3.12-slim
ENV NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
RUN pip install --no-cache-dir uv && uv pip install --system vllm==0.11.0
ENTRYPOINT ["vllm", "serve"]
