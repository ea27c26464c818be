FROM mambaorg/micromamba:1.5-jammy-cuda-12.4.1
COPY --chown=$MAMBA_USER env.yaml /tmp/env.yaml
RUN micromamba install -y -n base -f /tmp/env.yaml && micromamba clean -a -y
CMD ["python"]
