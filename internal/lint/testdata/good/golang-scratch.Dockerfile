FROM golang:1.26-alpine AS build
RUN apk add --no-cache git
COPY . /src
RUN cd /src && go build -o /app
FROM scratch
COPY --from=build /app /app
CMD ["/app"]
