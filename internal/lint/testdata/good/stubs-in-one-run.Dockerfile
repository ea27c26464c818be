FROM nvidia/cuda:12.4.1-devel-ubuntu22.04
COPY . /src
RUN ln -s /usr/local/cuda/lib64/stubs/libcuda.so /usr/lib/x86_64-linux-gnu/libcuda.so.1 \
 && make -C /src \
 && rm /usr/lib/x86_64-linux-gnu/libcuda.so.1
CMD ["bash"]
