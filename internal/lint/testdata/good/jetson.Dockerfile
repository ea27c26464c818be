FROM nvcr.io/nvidia/l4t-base:r36.2.0
RUN apt-get update && apt-get install -y --no-install-recommends python3 && rm -rf /var/lib/apt/lists/*
CMD ["python3"]
