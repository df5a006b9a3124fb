# The base is named by its tag, so that a build takes its security fixes. A release names the digest of that moment, see
# .github/workflows/release.yml.
ARG PYTHON_IMAGE=python:3.13-slim-trixie

FROM ${PYTHON_IMAGE} AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /src
# Two environments: the tools stay behind in /opt/build, so the image that runs has neither pip nor a build backend.
RUN python -m venv /opt/build && python -m venv --without-pip /opt/idservice
COPY requirements.lock requirements-build.lock ./
RUN /opt/build/bin/pip install --require-hashes -r requirements-build.lock \
 && /opt/build/bin/pip --python /opt/idservice/bin/python install --require-hashes -r requirements.lock
# The AWS library describes 400 services in 24 MB. DynamoDB is used; the others that stay here give credentials.
RUN cd /opt/idservice/lib/python*/site-packages/botocore/data \
 && find . -mindepth 1 -maxdepth 1 -type d -not -name dynamodb -not -name sts -not -name sso -not -name sso-oidc \
      -exec rm -r {} +
COPY pyproject.toml README.md LICENSE ./
COPY idservice ./idservice
# pip compiles what it installs: on a read-only root Python cannot, and a start without .pyc takes half as long again.
RUN /opt/build/bin/pip wheel --no-deps --no-index --no-build-isolation --wheel-dir /tmp/wheel . \
 && /opt/build/bin/pip --python /opt/idservice/bin/python install --no-deps --no-index /tmp/wheel/*.whl

FROM ${PYTHON_IMAGE}
# 0700: the ids of a counter are only as safe as its file.
RUN groupadd --gid 10001 idservice \
 && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin idservice \
 && install -d -o 10001 -g 10001 -m 0700 /var/lib/idservice
COPY --from=build /opt/idservice /opt/idservice
ENV PATH=/opt/idservice/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
# Numeric, because Kubernetes' runAsNonRoot cannot tell whether a name is root.
USER 10001:10001
# `serve` without a store named creates idservice.db in the directory it starts in, here the volume. IDSERVICE_STORE
# stays unset on purpose: a named store that is missing is an error, so that a lost volume does not start again from 0.
WORKDIR /var/lib/idservice
VOLUME ["/var/lib/idservice"]
EXPOSE 8080
STOPSIGNAL SIGTERM
# Amazon ECS ignores this one: repeat the command in the task definition.
HEALTHCHECK --interval=10s --timeout=2s --start-period=5s --retries=3 CMD ["idservice", "health"]
# No init process: the server handles SIGTERM itself as PID 1 and reaps its own workers.
# A signal is kept until the program has a handler: as PID 1 it gets none before, and Python takes 50 ms to begin.
ENTRYPOINT ["env", "--block-signal=TERM,HUP,QUIT", "idservice"]
CMD ["serve"]
# `make image` adds the revision.
ARG PYTHON_IMAGE
LABEL org.opencontainers.image.title="idservice" \
      org.opencontainers.image.description="Unique, short numbers over HTTP, from blocks reserved on SQLite or DynamoDB" \
      org.opencontainers.image.version="0.1.0" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.base.name="${PYTHON_IMAGE}"
