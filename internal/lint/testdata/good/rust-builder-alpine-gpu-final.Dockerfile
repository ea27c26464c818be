FROM rust:1.83-alpine AS build
COPY . /src
RUN cargo build --release --manifest-path /src/Cargo.toml
FROM nvidia/cuda:12.8.1-base-ubuntu24.04
COPY --from=build /src/target/release/app /app
CMD ["/app"]
