# Fine-tuning and export. torch comes from PyPI, which brings the CUDA libraries that ONNX Runtime takes too.
#   docker build -f docker/train.Dockerfile -t clip-toolkit-train .
#   docker run --rm --gpus all --ipc host --user "$(id -u):$(id -g)" -v "$PWD:/work" clip-toolkit-train \
#     accelerate launch recipes/finetune.py --config recipes/configs/digits.yaml --out runs/digits
FROM python:3.11-slim
# torch.compile builds kernels with it
# hadolint ignore=DL3008
RUN apt-get update \
 && apt-get install --yes --no-install-recommends g++ \
 && rm -rf /var/lib/apt/lists/*
# any user may write here: hub downloads and compiled kernels; torch asks for the user's name, which --user has not
RUN useradd --uid 1000 --create-home toolkit && chmod 1777 /home/toolkit
ENV HOME=/home/toolkit USER=toolkit
WORKDIR /src
COPY pyproject.toml constraints.txt ./
COPY docker/requirements.py docker/
RUN python docker/requirements.py train data gpu > requirements.txt \
 && python -m venv --without-pip /opt/toolkit \
 && pip --python /opt/toolkit install --no-cache-dir --requirement requirements.txt --constraint constraints.txt
COPY . .
RUN pip --python /opt/toolkit install --no-cache-dir --no-deps . && rm -rf /src/*
# ONNX Runtime's builds from 1.29 on send telemetry to Microsoft unless they are told not to
ENV PATH=/opt/toolkit/bin:$PATH ORT_DISABLE_TELEMETRY=1
WORKDIR /work
USER 1000:1000
CMD ["toolkit", "doctor"]
