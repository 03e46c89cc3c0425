# The scanhook command in a container: `serve` on one machine, `work` on a cluster. Built from the repository's root:
#
#   export $(deploy/base Dockerfile)
#   docker buildx build --build-arg BASE --build-arg TOOLS --tag scanhook .
#
# BASE      what the image is made of; it has no shell. deploy/base gives it, and TOOLS, by digest
# TOOLS     what compiles scanhook, for the platform of the image, and fetches the CLI; nothing of it gets into the image
# BINARY    a scanhook in the build context, built elsewhere for that platform, instead of compiling one
# TARGETARCH, CLI_FILE, SYSDIG_DOWNLOAD_URL, SOURCE_DATE_EPOCH, REVISION   as in functions/scanner/Dockerfile
ARG BASE=gcr.io/distroless/cc-debian12:nonroot
ARG TOOLS=docker.io/library/rust:1.95-bookworm

FROM ${TOOLS} AS tree
ARG TARGETARCH
ARG BINARY=
ARG CLI_FILE=
ARG SYSDIG_DOWNLOAD_URL=
ARG SOURCE_DATE_EPOCH=0
RUN --mount=type=bind,target=/context set -eu; umask 022; \
    mkdir -p /tree/usr/bin /tree/var/lib/scanhook; \
    if [ -z "$BINARY" ]; then \
        cargo build --release --locked --package scanhook --manifest-path /context/Cargo.toml --target-dir /build; \
        BINARY=../build/release/scanhook; \
    fi; \
    install -m 0755 "/context/$BINARY" /tree/usr/bin/scanhook; \
    [ -n "$SYSDIG_DOWNLOAD_URL" ] || unset SYSDIG_DOWNLOAD_URL; \
    /context/layer/fetch --arch "$TARGETARCH" --to /tree/usr ${CLI_FILE:+--file "/context/$CLI_FILE"}; \
    # The state of `serve`, for the user of the image.
    chown 65532:65532 /tree/var/lib/scanhook; \
    touch -d "@$SOURCE_DATE_EPOCH" /tree/usr/bin/scanhook /tree/usr/bin/sysdig-cli-scanner \
        /tree/usr/bin /tree/usr /tree/var/lib/scanhook /tree/var/lib /tree/var /tree

FROM ${BASE}
ARG REVISION=unknown
LABEL org.opencontainers.image.title="scanhook" \
      org.opencontainers.image.description="Scans what is pushed to container registries" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.revision="$REVISION"
COPY --from=tree /tree /
ENV HOME=/tmp
USER 65532:65532
VOLUME /var/lib/scanhook
EXPOSE 8080
ENTRYPOINT ["/usr/bin/scanhook"]
CMD ["serve", "--listen", "0.0.0.0:8080", "--config", "/etc/scanhook/scanhook.yaml", "--data-dir", "/var/lib/scanhook", "--scanner-cli", "/usr/bin/sysdig-cli-scanner"]
