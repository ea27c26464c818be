FROM nvidia/cuda:12.8.1-runtime-rockylinux9
RUN dnf install -y python3.11 && dnf clean all
COPY app /app
CMD ["python3.11", "/app/main.py"]
