FROM tensorflow/tensorflow:2.16.1
COPY . /app
CMD ["python", "/app/serve.py"]
