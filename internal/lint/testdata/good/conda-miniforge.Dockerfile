FROM condaforge/miniforge3:24.11.3-0
ENV NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
RUN mamba install -y -c conda-forge pytorch-gpu cuda-version=12.6 && mamba clean -afy
COPY . /app
CMD ["python", "/app/run.py"]
