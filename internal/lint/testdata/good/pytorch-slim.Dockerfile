FROM python:3.12-slim
ENV NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
RUN pip install --no-cache-dir torch==2.9.1 torchvision --index-url https://download.pytorch.org/whl/cu128
WORKDIR /app
COPY . .
CMD ["python", "train.py"]
