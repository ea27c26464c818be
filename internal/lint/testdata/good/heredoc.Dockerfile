# syntax=docker/dockerfile:1
FROM nvidia/cuda:12.4.1-cudnn-runtime-ubuntu22.04
RUN <<EOF
set -eu
apt-get update
apt-get install -y --no-install-recommends python3 python3-pip
rm -rf /var/lib/apt/lists/*
EOF
COPY <<EOF /etc/app.conf
gpu = nvidia-smi
EOF
CMD ["python3", "-m", "app"]
