FROM nvcr.io/nvidia/tritonserver:24.12-py3
RUN pip install --no-cache-dir numpy pillow
COPY models /models
CMD ["tritonserver", "--model-repository=/models"]
