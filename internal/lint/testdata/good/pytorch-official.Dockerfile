FROM pytorch/pytorch:2.6.0-cuda12.4-cudnn9-runtime
RUN pip install --no-cache-dir transformers datasets
WORKDIR /workspace
COPY . .
CMD ["python", "train.py", "--device", "cuda"]
