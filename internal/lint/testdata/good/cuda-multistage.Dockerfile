# syntax=docker/dockerfile:1
ARG CUDA=12.4.1
ARG DISTRO=ubuntu22.04
FROM nvidia/cuda:${CUDA}-devel-${DISTRO} AS build
RUN apt-get update && apt-get install -y --no-install-recommends cmake ninja-build && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY . .
ENV LIBRARY_PATH=/usr/local/cuda/lib64/stubs
RUN cmake -S . -B build -G Ninja -DCMAKE_CUDA_ARCHITECTURES="80;86;90" && cmake --build build
RUN ln -s /usr/local/cuda/lib64/stubs/libcuda.so /usr/local/cuda/lib64/stubs/libcuda.so.1 \
 && LD_LIBRARY_PATH=/usr/local/cuda/lib64/stubs ctest --test-dir build -L cpu

FROM nvidia/cuda:${CUDA}-runtime-${DISTRO}
COPY --from=build /src/build/app /usr/local/bin/app
ENTRYPOINT ["app"]
