# do not apt-get install nvidia-driver-550 here
FROM ubuntu:24.04
RUN echo "see nvidia-driver docs" > /etc/motd && apt-get update && apt-get install -y cuda-like-name-12 || true
CMD ["bash"]
