# The image of every node and job: docker build -t tuning .                     (CPU)
#                                  docker build -t tuning --build-arg GPU=1 .   (CUDA build of torch, 8-bit optimizers)
# A machine needs only NVIDIA's driver and container toolkit. Versions are those of requirements.lock.
ARG PYTHON=3.11
FROM python:${PYTHON}-slim-bookworm AS build
WORKDIR /source
COPY . .
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /dist .

FROM python:${PYTHON}-slim-bookworm
ARG GPU=0
SHELL ["/bin/bash", "-o", "pipefail", "-c"]
# tini reaps what a driver leaves behind; wget is what older versions of KubeRay probe with.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends tini wget \
    && rm -rf /var/lib/apt/lists/*
COPY requirements.lock /opt/
COPY --from=build /dist/ /opt/dist/
# torch goes first and alone: PyPI has its CUDA build, and nothing later may replace the CPU build.
RUN index=https://download.pytorch.org/whl/cpu \
    && if [ "$GPU" = 1 ]; then index=https://pypi.org/simple; fi \
    && pip install --no-cache-dir --no-deps --index-url "$index" torch==2.13.0
RUN wheel="$(echo /opt/dist/*.whl)" \
    && if [ "$GPU" = 1 ]; then wheel="${wheel}[gpu]"; fi \
    && pip install --no-cache-dir --constraint /opt/requirements.lock "$wheel" \
    && rm -r /opt/dist
RUN useradd --uid 1000 --create-home tuning
USER 1000
WORKDIR /home/tuning
# `utility` is NVML, from which cards are read.
ENV NVIDIA_DRIVER_CAPABILITIES=compute,utility
ENTRYPOINT ["tini", "--"]
CMD ["tune-jobs", "--help"]
