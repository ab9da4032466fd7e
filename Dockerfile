# The package as uv.lock has it: the versions that its tests ran with, the web page included.
#   docker build -t rvos .                                   (torch for CUDA 13; for a small image without, constraints.txt and
#                                                             --build-arg TORCH_INDEX=https://download.pytorch.org/whl/cpu)
#   docker run --rm --gpus all -v "$PWD/runs:/opt/rvos/runs" rvos fit -c configs/tiny.yaml
#   docker run --rm -p 7860:7860 -v "$PWD/runs:/opt/rvos/runs" rvos demo --host 0.0.0.0
FROM python:3.11-slim-bookworm
ARG TORCH_INDEX=""
ENV PIP_NO_CACHE_DIR=1 PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 MPLCONFIGDIR=/tmp/matplotlib
WORKDIR /opt/rvos
COPY uv.lock constraints.txt pyproject.toml README.md LICENSE ./
COPY rvos_lightning rvos_lightning
COPY callbacks callbacks
COPY configs configs
COPY slurm slurm
ENV PATH=/opt/rvos/.venv/bin:$PATH
RUN python -m venv .venv \
    && if [ -z "$TORCH_INDEX" ]; then pip install --constraint constraints.txt uv && uv sync --frozen --no-cache --extra demo; \
       else pip install --extra-index-url "$TORCH_INDEX" --constraint constraints.txt --editable '.[demo]'; fi \
    && rvos --version
RUN useradd --create-home rvos && mkdir runs && chown rvos runs
USER rvos
EXPOSE 7860
ENTRYPOINT ["rvos"]
CMD ["--help"]
