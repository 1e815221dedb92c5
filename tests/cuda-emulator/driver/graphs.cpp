// Graphs: what a capture recorded, launched again and again. Nodes that do not depend on each other may run in any order.
#include "driver.h"

namespace emu {
namespace {

constexpr uint64_t auto_free_on_launch = 1, device_launch = 4;

// At its launch: memory nodes take effect, and every operand must be there.
void check_nodes(const Graph& graph) {
    for (auto& node : graph.nodes) {
        const Work& work = node.work;
        if (work.allocates) allocations.at(work.allocates).live_in_graph = true;
        else if (work.frees) allocations.at(work.frees).live_in_graph = false;
        else check("graph node " + work.what, work.operands, true);
    }
}

} // namespace
} // namespace emu

using namespace emu;

extern "C" {

CUresult cuGraphInstantiateWithFlags(Executable** out, Graph* graph, unsigned long long flags) {
    CALL;
    NOT_IN_CAPTURE;
    if ((flags & device_launch) && (flags & auto_free_on_launch)) return INVALID_VALUE;
    *out = new Executable{std::make_shared<Graph>(*graph), flags};
    return OK;
}
CUresult cuGraphDestroy(Graph* graph) {
    CALL;
    delete graph;
    return OK;
}
CUresult cuGraphExecDestroy(Executable* executable) {
    CALL;
    delete executable;
    return OK;
}
CUresult cuGraphUpload(Executable*, void*) {
    CALL;
    return OK;
}

// The number of nodes only.
CUresult cuGraphGetNodes(Graph* graph, void* nodes, size_t* number) {
    CALL;
    if (nodes) emu_fail("cuGraphGetNodes gives the number of nodes only");
    *number = 0;
    for (auto& node : graph->nodes) *number += node.work.what != "fork";
    return OK;
}

CUresult cuGraphLaunch(Executable* executable, void* handle) {
    CALL;
    Stream* stream = stream_of(handle);
    if (stream->capture) return invalidate(stream->capture, CAPTURE_UNSUPPORTED);
    const Graph& graph = *executable->graph;
    if (!(executable->flags & auto_free_on_launch))
        for (auto& node : graph.nodes) // memory of the last launch that was not freed
            if (node.work.allocates && allocations.at(node.work.allocates).live_in_graph) return INVALID_VALUE;
    check_nodes(graph);
    CUresult code = put_graph(stream, executable->graph);
    if (code) return code;
    counts.graph_launches++;
    for (auto& node : graph.nodes) count(node.work, true);
    return OK;
}
}
