"""Bugs to plant in the decode engine, one at a time, each of which the tests named must notice: see scripts/engine-mutants.

(what is wrong, file, its text, what takes its place, the tests that notice it). The text occurs once.
"""

BUFFERS, DECODER, EXECUTOR, STEP = (f"src/engine/cuda/{name}.rs" for name in ("buffers", "decoder", "executor", "step"))

MUTANTS = [
    ("a step does not wait for its inputs", BUFFERS,
     "self.gpu.stream.wait(&self.sent).map_err(refused)?;", "", "ahead::"),
    ("results are read before they have come down", BUFFERS,
     "self.done.synchronize().map_err(|e| self.gpu.fault(\"running a step\", e))", "Ok(())", "ahead::"),
    ("two steps share the buffers", EXECUTOR,
     ".all(|step| step.buffers != *place)", ".all(|step| step.buffers > 0 || *place == 0)", "ahead::"),
    ("a sequence keeps the block table of the one before it", STEP,
     "            *word = *block;",
     "            if member.start == 0 {\n                *word = *block;\n            }", "simulation::"),
    ("the histories of a step begin where its block tables do", STEP,
     "let mut histories = tables + longest * shape.members;", "let mut histories = tables;", "penalties::"),
    ("padding rows write keys", STEP,
     ".fill(NO_SLOT);", ".fill(0);", "padding::"),
    ("a token comes from the row before its own", STEP,
     "= row as u32 - 1;", "= (row as u32).saturating_sub(2);", "simulation::"),
    ("a recorded step is given to more rows than it has", "src/engine/cuda/graphs.rs",
     "*bucket >= rows)?", "*bucket + 1 >= rows)?", "simulation::"),
    ("a row's keys go where the row before it is", STEP,
     "held[block] * kv.block_size as u32 + place as u32;",
     "held[block] * kv.block_size as u32 + (place as u32).saturating_sub(1);", "simulation::"),
    ("what was recorded uses a cache that was given up", EXECUTOR,
     "        Ok(Ready {",
     "        self.decoder.refit_cache((1, self.setup.kv.blocks), |free, _| free / 8)?;\n        Ok(Ready {", "memory:: --test-threads 1"),
    ("a stage takes the memory of those that come after it", EXECUTOR,
     "\n                    / (to_come + 1)", "", "memory:: --test-threads 1"),
    ("a draw is of the position before", STEP,
     "emitted_position(member), range)", "emitted_position(member) - 1, range)", "engine::tokens_are"),
    ("a layer is given the window of the one before it", DECODER,
     "self.spec.window(self.weights.range.start + number)",
     "self.spec.window((self.weights.range.start + number).saturating_sub(1))", "families::"),
    ("heads of queries and keys are not normed", DECODER,
     "head_norms.map(|[q, _]| q)", "None", "families::"),
    ("the bias of queries, keys and values is left out", DECODER,
     "bias: qkv_weights.bias,", "bias: None,", "families::"),
]
