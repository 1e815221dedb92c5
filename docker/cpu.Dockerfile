# A stage of a pipeline as a function, on the CPU. From the repository's folder:
#   docker build --file docker/cpu.Dockerfile --tag stageline:cpu .

FROM rust:1.95-slim-bookworm AS build
WORKDIR /src
# Lines of the source are two thirds of the program's bytes. Names stay, for backtraces.
ENV CARGO_PROFILE_RELEASE_DEBUG=none
COPY . .
# The dependencies, built and unbuilt, are kept between builds, of whatever source. What is in a cache mount is not in the
# image, hence the copy.
RUN --mount=type=cache,id=stageline-registry,target=/usr/local/cargo/registry \
    --mount=type=cache,id=stageline-cpu,target=/src/target \
    cargo build --release --locked --bin stageline \
    && install -D target/release/stageline /out/stageline

FROM debian:12-slim
LABEL org.opencontainers.image.title="stageline" \
      org.opencontainers.image.description="A stage of a neural network that runs as a pipeline of functions, on the CPU" \
      org.opencontainers.image.licenses="Apache-2.0"
# Who talks tls:// to NATS knows the broker by these.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends ca-certificates \
    && rm -rf /var/lib/apt/lists/*
COPY LICENSE /usr/share/doc/stageline/LICENSE
COPY --from=build /out/stageline /usr/local/bin/stageline
# A folder that `stageline split` has written: mounted here, or copied by docker/pipeline.Dockerfile.
ENV STAGELINE_PIPELINE=/pipeline
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
