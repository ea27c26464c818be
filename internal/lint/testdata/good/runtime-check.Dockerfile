FROM nvidia/cuda:12.4.1-base-ubuntu22.04
RUN if command -v nvidia-smi; then nvidia-smi; fi
RUN nvidia-smi || true
RUN echo 'alias gpu="nvidia-smi"' >> /root/.bashrc
HEALTHCHECK CMD nvidia-smi || exit 1
CMD ["nvidia-smi", "-L"]
