FROM python:3.12-slim
RUN pip install --no-cache-dir torch transformers accelerate
COPY app.py .
CMD ["python", "app.py"]
