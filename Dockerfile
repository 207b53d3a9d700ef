# One image for every process of Headrace; docker-compose.yml says which one a container runs.
# Versions are those of the local stack: pyproject.toml and flink-conf/jars.txt are read here too.
FROM python:3.11-slim-bookworm

RUN apt-get update \
 && apt-get install -y --no-install-recommends openjdk-17-jre-headless maven \
 && rm -rf /var/lib/apt/lists/*

WORKDIR /headrace
ENV STACK_RUN_DIR=/data PYTHONUNBUFFERED=1

# The dependencies, the largest part, are a layer of their own.
COPY pyproject.toml README.md ./
RUN mkdir -p jobs udfs model/scoring model/learning model/evaluation model/media serving scripts && pip install --no-cache-dir --editable .

COPY flink-conf flink-conf
COPY model model
COPY udfs udfs
COPY jobs jobs
COPY serving serving
COPY scripts scripts

# Compiled loops: the cache is made for a processor; another one compiles again. A user who cannot write here starts with a
# copy of it (model/jit.py).
RUN python -m scripts.compile

# Kafka, the connector, the language model and a Flink home, so that a container needs no network.
RUN python -m scripts.stack prepare

ENTRYPOINT ["python", "-m", "scripts.stack", "run"]
