# Two images from one build:
#   docker build --target routeserver -t routeserver .
#   docker build --target forwarder -t forwarder .

FROM python:3.11-slim-bookworm AS build
WORKDIR /source
COPY constraints.txt ./
RUN pip install --no-cache-dir --constraint constraints.txt hatchling
COPY pyproject.toml README.md LICENSE ./
COPY schema schema
COPY routeserver routeserver
COPY forwarder forwarder
RUN python -m hatchling build -t wheel -d /wheel \
    && python -m venv /opt/end-system \
    && /opt/end-system/bin/pip install --no-cache-dir --constraint constraints.txt /wheel/*.whl

# Programs the forwarder calls; the kernel and its modules (VRF, MPLS, GRE, FOU) are the host's. It programs the
# host's kernel: it writes /proc/sys, which is read-only to a container without --privileged, and opens packet sockets.
# A directory for its socket is shared with those who attach, `api = "/run/forwarder/forwarder.sock"`:
#   docker run --network host --privileged -v /lib/modules:/lib/modules:ro -v /etc/forwarder:/etc/forwarder:ro \
#     -v /var/lib/forwarder:/var/lib/forwarder -v /run/forwarder:/run/forwarder forwarder
FROM python:3.11-slim-bookworm AS forwarder
RUN apt-get update \
    && apt-get install -y --no-install-recommends iproute2 nftables kmod \
    && rm -rf /var/lib/apt/lists/*
COPY --from=build /opt/end-system /opt/end-system
ENV PATH=/opt/end-system/bin:$PATH
VOLUME ["/var/lib/forwarder"]
ENTRYPOINT ["forwarder"]
CMD ["run", "--config", "/etc/forwarder/forwarder.toml"]

FROM python:3.11-slim-bookworm AS routeserver
RUN useradd --system --no-create-home --uid 990 routeserver
COPY --from=build /opt/end-system /opt/end-system
ENV PATH=/opt/end-system/bin:$PATH
USER routeserver
EXPOSE 5222 1790 8080
ENTRYPOINT ["routeserver"]
CMD ["run", "--config", "/etc/routeserver/routeserver.toml"]
