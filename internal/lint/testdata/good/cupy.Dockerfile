FROM python:3.12-slim
ENV NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
RUN pip install --no-cache-dir "cupy-cuda12x[ctk]"
COPY k.py /
CMD ["python", "/k.py"]
