FROM nvcr.io/nvidia/pytorch:25.01-py3
COPY ext /ext
ENV TORCH_CUDA_ARCH_LIST="8.0 9.0"
RUN pip install --no-build-isolation /ext
CMD ["bash"]
