# selfplay on CPUs, with the embedded models; nothing is downloaded by a run of them:
#
#   docker build -t selfplay .
#   docker run --rm --user "$(id -u):$(id -g)" -v "$PWD:/work" selfplay game=kuhn player=tabular steps=20
#
# Runs are written to ./outputs; configs in ./conf are found. For models of the Hugging Face Hub keep their cache:
# -v "$HOME/.cache/huggingface:/cache" -e HF_HOME=/cache. Extras: --build-arg EXTRAS='[data,math]'.
#
# With CUDA, the torch of PyPI, which contains the CUDA libraries (several gigabytes), and NVIDIA's container toolkit:
#
#   docker build --build-arg TORCH_INDEX=https://pypi.org/simple -t selfplay:cuda .
#   docker run --rm --gpus all ... selfplay:cuda device=cuda
FROM python:3.11-slim

ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
ARG EXTRAS=""

# first, since it changes least; the version of the Makefile
RUN pip install --no-cache-dir --index-url "$TORCH_INDEX" torch==2.13.0

WORKDIR /build
COPY pyproject.toml constraints.txt README.md LICENSE NOTICE ./
COPY conf conf
COPY src src
RUN pip install --no-cache-dir --constraint constraints.txt ".$EXTRAS" && rm -rf /build/*

# any user id may run it, so caches lie where all may write, and nothing asks for the user's name
ENV HOME=/tmp USER=selfplay PYTHONUNBUFFERED=1
WORKDIR /work
USER 1000:1000
ENTRYPOINT ["selfplay"]
CMD ["--help"]
