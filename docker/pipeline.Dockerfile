# An image with a pipeline in it, for where no folder can be mounted, as in OpenFaaS. Whoever runs it says with
# STAGELINE_STAGE which stage it is. From the folder that `stageline split` has written:
#   docker build --file docker/pipeline.Dockerfile --tag smollm2 pipelines/smollm2
ARG BASE=stageline:cpu
# hadolint ignore=DL3006
FROM $BASE
# A stage reads pipeline.json and its own shard alone, stage 0 the tokenizer's files too: an image of one stage is made from a copy
# of the folder with just these.
COPY . /pipeline/
