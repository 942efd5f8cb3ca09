# The runtime alone: verify and predict with a bundle, on CPUs. No torch.
#   docker build -f docker/runtime.Dockerfile -t clip-toolkit-runtime .
#   docker run --rm -v "$PWD/bundles/digits:/bundle:ro" clip-toolkit-runtime verify /bundle
FROM python:3.11-slim
WORKDIR /src
COPY . .
RUN pip install --no-cache-dir . --constraint constraints.txt && rm -rf /src
WORKDIR /
USER nobody
ENTRYPOINT ["toolkit"]
