ARG VARIANT=cpu
FROM python:3.12-slim
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
ENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
RUN pip install --no-cache-dir torch --index-url ${TORCH_INDEX}
COPY . /app
CMD ["python", "/app/main.py"]
