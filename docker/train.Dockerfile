# Fine-tuning and export. torch comes from PyPI, which brings its CUDA libraries.
#   docker build -f docker/train.Dockerfile -t clip-toolkit-train .
#   docker run --rm --gpus all -v "$PWD:/work" -w /work clip-toolkit-train \
#     accelerate launch recipes/finetune.py --config recipes/configs/digits.yaml --out runs/digits
FROM python:3.11-slim
WORKDIR /src
COPY . .
RUN pip install --no-cache-dir ".[train,data]" --constraint constraints.txt && rm -rf /src
CMD ["toolkit", "doctor"]
