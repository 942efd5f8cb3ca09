# The runtime and the server, without torch: `toolkit serve`, and also verify, predict, embed, bench-latency.
#   docker build -f docker/serve.Dockerfile -t clip-toolkit-serve .
#   docker run --rm --read-only -p 8000:8000 -p 8001:8001 -v "$PWD/bundles:/bundles:ro" \
#     clip-toolkit-serve serve --host 0.0.0.0 /bundles/digits
# On a GPU: --build-arg DEVICE=cuda; docker run --gpus all ... serve --provider cuda ...
# The base is no CUDA image: CUDA 13 and cuDNN 9 come as wheels, in the versions that ONNX Runtime asks for.
FROM python:3.11-slim AS build
ARG DEVICE=cpu
WORKDIR /src
COPY pyproject.toml constraints.txt ./
COPY docker/requirements.py docker/
RUN python docker/requirements.py serve text --device "$DEVICE" > requirements.txt \
 && python -m venv --without-pip /opt/toolkit \
 && pip --python /opt/toolkit install --no-cache-dir --requirement requirements.txt --constraint constraints.txt
COPY . .
RUN pip --python /opt/toolkit install --no-cache-dir --no-deps .

FROM python:3.11-slim
COPY --from=build /opt/toolkit /opt/toolkit
# ONNX Runtime's builds from 1.29 on send telemetry to Microsoft unless they are told not to
ENV PATH=/opt/toolkit/bin:$PATH ORT_DISABLE_TELEMETRY=1
# nobody, by number: Kubernetes' runAsNonRoot reads no names
USER 65534:65534
EXPOSE 8000 8001
# ready once every bundle passed its proof here; with --tls-cert or another --port, give a health check of your own
HEALTHCHECK --interval=10s --timeout=5s --start-period=120s --retries=3 \
  CMD ["python", "-c", "from urllib.request import urlopen; urlopen('http://127.0.0.1:8000/v2/health/ready', timeout=4)"]
ENTRYPOINT ["toolkit"]
CMD ["serve", "--host", "0.0.0.0", "/bundle"]
