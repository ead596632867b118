# Two images from one recipe: --target server (gRPC, with torch) and --target translator (HTTP, light).
# Both install by deploy/install.sh, which CI runs without docker.
ARG PYTHON_IMAGE=python:3.11.14-slim-bookworm

FROM ${PYTHON_IMAGE} AS source
WORKDIR /src
COPY constraints.txt pyproject.toml README.md LICENSE ./
COPY clients/python clients/python
COPY deploy/install.sh deploy/install.sh
COPY cli cli
COPY engine engine
COPY kernels kernels
COPY gate gate
COPY server server
COPY translator translator
COPY watch watch

FROM source AS server-build
RUN deploy/install.sh /opt/pagewire server,otel --no-cache-dir

FROM source AS translator-build
RUN deploy/install.sh /opt/pagewire translator,otel --no-cache-dir

FROM ${PYTHON_IMAGE} AS base
RUN useradd --uid 10001 --create-home pagewire \
  && install --directory --owner=pagewire /var/cache/pagewire
ENV PATH=/opt/pagewire/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PAGEWIRE_HOST=0.0.0.0

FROM base AS server
# Triton compiles a launcher for each kernel on a GPU with the system's C compiler. Debian's release pins
# the versions.
# hadolint ignore=DL3008
RUN apt-get update \
  && apt-get install --yes --no-install-recommends gcc libc6-dev \
  && rm -rf /var/lib/apt/lists/*
COPY --from=server-build /opt/pagewire /opt/pagewire
ENV PAGEWIRE_CACHE=/var/cache/pagewire \
    HF_HOME=/var/cache/pagewire/huggingface
USER 10001
VOLUME /var/cache/pagewire
EXPOSE 50051 50053
HEALTHCHECK --interval=5s --timeout=10s --start-period=10m --start-interval=1s \
  CMD ["pagewire", "health", "--target", "127.0.0.1:50051"]
ENTRYPOINT ["pagewire", "serve"]

FROM base AS translator
COPY --from=translator-build /opt/pagewire /opt/pagewire
USER 10001
EXPOSE 8000
HEALTHCHECK --interval=5s --timeout=10s --start-period=1m --start-interval=1s \
  CMD ["pagewire", "health", "--target", "http://127.0.0.1:8000"]
ENTRYPOINT ["pagewire", "translate"]
