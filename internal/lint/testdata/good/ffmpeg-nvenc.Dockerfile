FROM nvidia/cuda:12.4.1-devel-ubuntu22.04 AS build
RUN apt-get update && apt-get install -y --no-install-recommends git make pkg-config yasm ca-certificates && rm -rf /var/lib/apt/lists/*
RUN git clone --depth 1 https://git.videolan.org/git/ffmpeg/nv-codec-headers.git && make -C nv-codec-headers install
COPY ffmpeg /src
RUN cd /src && ./configure --enable-nonfree --enable-cuda-nvcc --enable-nvenc --enable-libnpp --extra-cflags=-I/usr/local/cuda/include --extra-ldflags=-L/usr/local/cuda/lib64 && make -j$(nproc) && make install

FROM nvidia/cuda:12.4.1-runtime-ubuntu22.04
COPY --from=build /usr/local/bin/ffmpeg /usr/local/bin/ffmpeg
ENV NVIDIA_DRIVER_CAPABILITIES=compute,utility,video
ENTRYPOINT ["ffmpeg", "-hwaccel", "cuda", "-i", "/in.mp4", "-c:v", "h264_nvenc", "/out.mp4"]
