# circuitkit on the CPU:
#     docker build -t circuitkit .
#     docker run --rm -v "$PWD/runs:/work/runs" circuitkit compare
# Building needs PyPI, running needs no network. PyPI's torch for Linux brings CUDA; the smaller one for CPUs is elsewhere:
#     docker build --build-arg PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu -t circuitkit .
FROM python:3.11-slim
ARG PIP_INDEX_URL
ARG PIP_EXTRA_INDEX_URL
COPY . /opt/circuitkit
RUN cd /opt/circuitkit && pip install --no-cache-dir -c constraints.txt ".[report]"
WORKDIR /work
ENTRYPOINT ["circuitkit"]
CMD ["--help"]
