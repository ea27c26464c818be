FROM tensorflow/serving:2.16.1-gpu
COPY model /models/m
ENV MODEL_NAME=m
