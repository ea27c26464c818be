FROM tensorflow/tensorflow:2.16.1-gpu
WORKDIR /app
COPY . .
ENV NVIDIA_VISIBLE_DEVICES=all
CMD ["python", "train.py"]
