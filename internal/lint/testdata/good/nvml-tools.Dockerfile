FROM python:3.12-slim
ENV NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
RUN pip install --no-cache-dir nvidia-ml-py gpustat nvitop
CMD ["nvitop"]
