ARG BASE
FROM ${BASE}
RUN pip install torch
COPY . /app
CMD ["python", "/app/main.py"]
