# An image with a pipeline in it, for where no folder can be mounted, as in OpenFaaS. Whoever runs it says with
# STAGELINE_STAGE which stage it is. From the folder that `stageline split` has written:
#   docker build --file docker/pipeline.Dockerfile --tag smollm2 pipelines/smollm2
ARG BASE=stageline:cpu
# hadolint ignore=DL3006
FROM $BASE
# A stage reads its own shard alone: an image of one stage is made from a copy of the folder without the others'.
COPY . /pipeline/
