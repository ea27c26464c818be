FROM python:3.11-slim
ENV NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
RUN pip install --no-cache-dir "tensorflow[and-cuda]==2.16.1"
COPY . /app
CMD ["python", "/app/train.py"]
