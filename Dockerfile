# The bridge as an image: locked packages with hashes, no build tools of ours in the last stage, no root.
#
#   docker build -t ejoin-bridge:0.1.0 .
#   docker run --read-only -v ejoin-ledger:/var/lib/ejoin-bridge -v ./config.yaml:/etc/ejoin-bridge/config.yaml:ro ...
#
# BASE may be pinned to a digest, or be any image with Python 3.11 or newer, pip and venv.
ARG BASE=python:3.11-slim

FROM ${BASE} AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /src
COPY requirements.lock requirements-build.lock ./
RUN python3 -m venv /build \
    && /build/bin/pip install --no-cache-dir --no-deps --require-hashes -r requirements-build.lock \
    && python3 -m venv --without-pip /opt/ejoin-bridge \
    && /build/bin/pip --python /opt/ejoin-bridge/bin/python install --no-cache-dir --no-deps --require-hashes \
        -r requirements.lock
COPY pyproject.toml README.md LICENSE ./
COPY bridge bridge
RUN /build/bin/pip wheel --no-cache-dir --no-deps --no-index --no-build-isolation --wheel-dir /wheels . \
    && /build/bin/pip --python /opt/ejoin-bridge/bin/python install --no-cache-dir --no-deps --no-index /wheels/*.whl

FROM ${BASE}
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="ejoin-bridge" \
      org.opencontainers.image.description="RabbitMQ in, SMS out through the ports of Ejoin GSM gateways, and their callbacks as typed events" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
RUN groupadd --gid 10001 ejoin-bridge \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /var/lib/ejoin-bridge --shell /usr/sbin/nologin \
        ejoin-bridge \
    && install -d /etc/ejoin-bridge \
    && install -d -o 10001 -g 10001 -m 0750 /var/lib/ejoin-bridge
COPY --from=build /opt/ejoin-bridge /opt/ejoin-bridge
ENV PATH=/opt/ejoin-bridge/bin:$PATH \
    EJOIN_CONFIG=/etc/ejoin-bridge/config.yaml \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1
# The ledger's default path is relative: it lies here. Everything else may be read-only.
WORKDIR /var/lib/ejoin-bridge
VOLUME /var/lib/ejoin-bridge
USER 10001:10001
EXPOSE 8080
# Looks at the port of web.listen as the image ships it; Kubernetes uses its own probes.
HEALTHCHECK --interval=15s --timeout=5s --start-period=60s \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8080/healthz', timeout=4)"]
ENTRYPOINT ["ejoin-bridge"]
CMD ["run"]
