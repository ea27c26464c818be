FROM vllm/vllm-openai:v0.8.5
RUN pip install --no-cache-dir hf_transfer
ENV HF_HUB_ENABLE_HF_TRANSFER=1
ENTRYPOINT ["python3", "-m", "vllm.entrypoints.openai.api_server"]
