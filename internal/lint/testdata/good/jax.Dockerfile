FROM python:3.12-slim
ENV NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
RUN pip install --no-cache-dir "jax[cuda12]" flax optax
COPY . /app
CMD ["python", "/app/main.py"]
