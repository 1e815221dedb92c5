# A stage of a pipeline as a function, on an NVIDIA GPU. From the repository's folder:
#   docker build --file docker/cuda.Dockerfile --tag stageline:cuda .

# No newer than 13.0: PTX newer than the host's driver does not load.
FROM nvidia/cuda:13.0.2-devel-ubuntu22.04 AS toolkit

# Not in the toolkit's image: what is built against its newer or older C library need not run on the last stage's.
FROM rust:1.95-slim-bookworm AS build
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends g++ \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /src
# candle's kernels that are compiled to PTX, and all of ours, run on this compute capability and everything newer. There is
# no GPU in a build to be asked.
ARG CUDA_COMPUTE_CAP=80
ENV CARGO_PROFILE_RELEASE_DEBUG=none \
    CUDA_HOME=/usr/local/cuda \
    CUDA_COMPUTE_CAP=$CUDA_COMPUTE_CAP \
    PATH=/usr/local/cuda/bin:/usr/local/cargo/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
COPY . .
# The libraries are those that the program and they themselves name as NEEDED: it does not start without one. The driver's
# (libcuda.so.1) is the host's. cuBLASLt also knows libnvrtc.so.13 by name; what makes it open that is not documented, and
# NVIDIA's own package does not demand it.
RUN --mount=type=bind,from=toolkit,source=/usr/local/cuda-13.0,target=/usr/local/cuda \
    --mount=type=cache,id=stageline-registry,target=/usr/local/cargo/registry \
    --mount=type=cache,id=stageline-cuda,target=/src/target \
    cargo build --release --locked --features cuda --bin stageline \
    && install -D target/release/stageline /out/stageline \
    && install -D --target-directory=/out/lib \
        "$CUDA_HOME/lib64/libcublas.so.13" \
        "$CUDA_HOME/lib64/libcublasLt.so.13" \
        "$CUDA_HOME/lib64/libcudart.so.13" \
        "$CUDA_HOME/lib64/libcurand.so.10"

FROM debian:12-slim
LABEL org.opencontainers.image.title="stageline" \
      org.opencontainers.image.description="A stage of a neural network that runs as a pipeline of functions, on an NVIDIA GPU" \
      org.opencontainers.image.licenses="Apache-2.0 AND LicenseRef-NVIDIA-CUDA-EULA"
# Who talks tls:// to NATS knows the broker by these.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends ca-certificates libstdc++6 \
    && rm -rf /var/lib/apt/lists/*
COPY LICENSE /usr/share/doc/stageline/LICENSE
COPY --from=build /out/lib /usr/local/lib
COPY --from=build /out/stageline /usr/local/bin/stageline
RUN ldconfig
# What NVIDIA's container toolkit reads: which GPUs, what of the driver, and the oldest driver that will do.
ENV NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility \
    NVIDIA_REQUIRE_CUDA="cuda>=13.0" \
    STAGELINE_DEVICE=cuda:0 \
    STAGELINE_PIPELINE=/pipeline
# A container's own addresses: without these the program listens on its loopback, where nobody reaches it.
ENV STAGELINE_HTTP=0.0.0.0:8080 \
    STAGELINE_HOP_LISTEN=0.0.0.0:0
# A number, or Kubernetes cannot tell that it is not root; this one is OpenFaaS' own for functions that may not be root.
USER 12000:12000
EXPOSE 8080
# Alive, loading or not, as /_/health says it. Kubernetes looks at that and not at this.
HEALTHCHECK --interval=10s --timeout=5s CMD ["stageline", "call", "127.0.0.1:8080", "--timeout", "3s"]
# No shell between: the program is process 1, gets SIGTERM and drains.
ENTRYPOINT ["stageline"]
CMD ["serve"]
