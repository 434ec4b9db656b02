# The browser over a store, on a CPU. It reads the store and never writes it: mount it read-only.
#   docker build -f docker/app.Dockerfile -t sparse-rep-app .
#   docker run --rm -p 127.0.0.1:8501:8501 -v ./demo-store:/store:ro sparse-rep-app
FROM python:3.12-slim AS build
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PYTHONSAFEPATH=1
RUN python -m venv /opt/venv
WORKDIR /src
# Dependencies first: they change less often than the code, so this layer is kept.
COPY pyproject.toml constraints.txt ./
RUN /opt/venv/bin/pip install -c constraints.txt duckdb pyarrow numpy pydantic pyyaml typer rich streamlit plotly pandas
COPY README.md LICENSE ./
COPY sparse_rep sparse_rep
COPY saes saes
COPY kernels kernels
COPY store store
COPY app app
RUN /opt/venv/bin/pip install --no-deps .

FROM python:3.12-slim
# The checkout's folders must never be importable by their bare names: ours is not Hugging Face's `kernels`.
ENV PATH=/opt/venv/bin:$PATH PYTHONSAFEPATH=1 PYTHONUNBUFFERED=1 HOME=/home/app SPARSE_REP_STORE=/store
RUN useradd --uid 10001 --create-home --home-dir /home/app app
COPY --from=build /opt/venv /opt/venv
USER 10001
WORKDIR /home/app
VOLUME /store
EXPOSE 8501
# No curl in a slim image: Python asks.
HEALTHCHECK --interval=30s --timeout=5s --start-period=20s --retries=3 \
    CMD ["python", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:8501/_stcore/health', timeout=3)"]
ENTRYPOINT ["sparse-rep"]
CMD ["app", "--store", "/store", "--address", "0.0.0.0", "--no-browser"]
