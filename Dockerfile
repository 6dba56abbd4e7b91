# pgpilot as an image: `docker build -t pgpilot .`; the topology file goes to /etc/pgpilot/pgpilot.toml.
FROM rust:1.95-bookworm AS build
WORKDIR /source
COPY . .
RUN --mount=type=cache,target=/usr/local/cargo/registry --mount=type=cache,target=/source/target \
    cargo build --release --locked && cp target/release/pgpilot /usr/local/bin/pgpilot

FROM debian:bookworm-slim AS pgpilot
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --system --home-dir /var/lib/pgpilot --create-home pgpilot
COPY --from=build /usr/local/bin/pgpilot /usr/local/bin/pgpilot
COPY config/hooks /usr/share/pgpilot/hooks
USER pgpilot
WORKDIR /var/lib/pgpilot
EXPOSE 6432 9632
ENTRYPOINT ["pgpilot"]
CMD ["serve", "--config", "/etc/pgpilot/pgpilot.toml"]

# With Docker's client, for the hooks of docker-compose.yml.
FROM pgpilot AS with-docker
COPY --from=docker:28-cli /usr/local/bin/docker /usr/local/bin/docker

# What is built unless asked otherwise.
FROM pgpilot
