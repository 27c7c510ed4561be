# SentiTrace as a server. docs/serving.md says how to run it.
#
# On Linux, pip takes a build of PyTorch that also runs on CUDA. A smaller image without CUDA:
#   docker build --build-arg TORCH_INDEX=ADDRESS .
# with the address of the CPU builds that pytorch.org names under "Get started".
ARG PYTHON=3.12-slim-bookworm

FROM python:${PYTHON} AS build
ARG TORCH_INDEX=
WORKDIR /app
RUN python -m venv /app/.venv
COPY requirements.txt requirements-serve.txt constraints.txt ./
RUN if [ -n "$TORCH_INDEX" ]; then \
      .venv/bin/pip install --no-cache-dir --index-url "$TORCH_INDEX" \
        "$(grep '^torch==' requirements.txt)"; \
    fi \
 && .venv/bin/pip install --no-cache-dir \
      -r requirements.txt -r requirements-serve.txt -c constraints.txt
COPY app.py pyproject.toml LICENSE ./
COPY .streamlit/config.toml .streamlit/config.toml
COPY assets assets
COPY core core
COPY docs docs
COPY pages pages
# The root file system is read-only when it runs.
RUN .venv/bin/python -m compileall -q core pages app.py

FROM python:${PYTHON}
# OpenMP, for PyTorch and scikit-learn.
RUN apt-get update && apt-get install -y --no-install-recommends libgomp1 \
 && rm -rf /var/lib/apt/lists/*
RUN useradd --uid 10001 --create-home --home-dir /home/sentitrace sentitrace \
 && install -d -o sentitrace -g sentitrace /data
COPY --from=build /app /app
WORKDIR /app
# Without an address for the browser, Streamlit asks a web service what this machine's is.
ENV PATH=/app/.venv/bin:$PATH \
    HF_HOME=/data/huggingface \
    HF_HUB_DISABLE_PROGRESS_BARS=1 \
    HOME=/tmp \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    SENTITRACE_HOME=/data \
    SENTITRACE_LOG=json \
    SENTITRACE_PUBLIC=1 \
    STREAMLIT_BROWSER_SERVER_ADDRESS=localhost \
    STREAMLIT_SERVER_ADDRESS=0.0.0.0 \
    STREAMLIT_SERVER_FILE_WATCHER_TYPE=none \
    STREAMLIT_SERVER_HEADLESS=true \
    STREAMLIT_SERVER_MAX_UPLOAD_SIZE=20 \
    STREAMLIT_SERVER_PORT=8501
USER sentitrace
VOLUME /data
EXPOSE 8501
# The first start fetches the embedded model and the tweets into the volume.
HEALTHCHECK --interval=30s --timeout=5s --start-period=10m --retries=3 \
  CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8501/_stcore/health', timeout=4)"]
CMD ["sh", "-c", "python -m core setup && exec python -m streamlit run app.py"]
