# A server for one model: `docker run -p 8000:8000 -v MODEL_DIR:/model:ro -v labelfusion:/data IMAGE [OPTIONS]`, see docs/serving.md.
FROM python:3.11-slim

# Where the CPU build of PyTorch is. Without it the package index's own build is taken, with its CUDA libraries.
ARG PIP_EXTRA_INDEX_URL
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PYTHONUNBUFFERED=1

WORKDIR /src
COPY requirements requirements
RUN pip install --no-deps --require-hashes -r requirements/torch-cpu.txt \
    || pip install --no-deps --require-hashes -r requirements/torch.txt
COPY . .
RUN pip install -c constraints.txt ".[serve,openai]" \
    && useradd --create-home --uid 1000 server \
    && mkdir /data && chown server /data

USER server
WORKDIR /home/server
ENV HF_HOME=/data
VOLUME /data
EXPOSE 8000
HEALTHCHECK --start-period=120s CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:8000/health')"]
ENTRYPOINT ["labelfusion", "serve", "/model", "--host", "0.0.0.0", "--port", "8000"]
