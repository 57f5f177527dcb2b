# The product's images for whoever builds with a container engine: docker build --target gateway -t depin/gateway .
# `cargo xtask images --release` makes the same ones without an engine: one static program each, nobody's account, nothing else.
#
# --platform linux/arm64 compiles on this machine for the other one; nothing of it is emulated.

FROM --platform=$BUILDPLATFORM rust:1.95-slim-trixie AS build
ARG TARGETARCH
RUN case "$TARGETARCH" in \
      amd64) echo x86_64-unknown-linux-gnu gcc-x86-64-linux-gnu libc6-dev-amd64-cross ;; \
      arm64) echo aarch64-unknown-linux-gnu gcc-aarch64-linux-gnu libc6-dev-arm64-cross ;; \
      *) echo "no programs for $TARGETARCH: build for amd64 or arm64" >&2; exit 1 ;; \
    esac > /target \
    && read -r triple compiler library < /target \
    && rustup target add "$triple" \
    && apt-get update \
    && if [ "$(dpkg --print-architecture)" = "$TARGETARCH" ]; then set -- gcc libc6-dev; else set -- "$compiler" "$library"; fi \
    && apt-get install --yes --no-install-recommends "$@" \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /build
COPY . .
# No path of the machine that builds gets into the programs.
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    read -r triple _ < /target \
    && if [ "$(dpkg --print-architecture)" != "$TARGETARCH" ]; then \
         name=$(echo "$triple" | tr a-z- A-Z_); prefix=$(echo "$triple" | sed s/-unknown//); \
         export "CARGO_TARGET_${name}_LINKER=${prefix}-gcc" "CC_$(echo "$triple" | tr - _)=${prefix}-gcc"; \
       fi \
    && cargo build --workspace --release --locked --target "$triple" \
         --config "target.$triple.rustflags=['--remap-path-prefix=/usr/local/cargo=/cargo']" \
         --bin depin-operator --bin depin-gateway --bin depin-agent --bin kubectl-depin \
    && mkdir /programs \
    && for program in depin-operator depin-gateway depin-agent kubectl-depin; do cp "target/$triple/release/$program" /programs/; done

FROM scratch AS operator
COPY --from=build /programs/depin-operator /depin-operator
USER 65532:65532
ENTRYPOINT ["/depin-operator"]

FROM scratch AS gateway
COPY --from=build /programs/depin-gateway /depin-gateway
USER 65532:65532
ENTRYPOINT ["/depin-gateway"]

FROM scratch AS agent
COPY --from=build /programs/depin-agent /depin-agent
USER 65532:65532
ENTRYPOINT ["/depin-agent"]

FROM scratch AS cli
COPY --from=build /programs/kubectl-depin /kubectl-depin
USER 65532:65532
ENTRYPOINT ["/kubectl-depin"]
