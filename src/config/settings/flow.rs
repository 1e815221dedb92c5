//! Settings of flows.

use crate::config::setting::Setting;

pub const FLOW_WORDS: Setting = Setting::list(
    "flow_order",
    "check FILE | up FILE | run FILE NAME | export FILE NAME | list | show RUN | cancel RUN | pause RUN | resume RUN | retry RUN | signal RUN NAME [VALUE]",
    "What to do: with a flow file, or with a run of an engine that runs",
)
.positional();
pub const FLOW_INPUT: Setting =
    Setting::value("input", "TEXT|@FILE|-", "With what the flow is run: a text, a file's content, or standard input");
pub const FOLLOW: Setting = Setting::switch("follow", "Show what happens in the run while it does");
pub const FLOW_FORMAT: Setting =
    Setting::value("format", "mermaid|dot|json|dag", "How a flow is exported; dag is faas-flow's JSON").or("mermaid");
pub const GATEWAY: Setting = Setting::value(
    "gateway",
    "URL",
    "Where functions are, whatever the file's provider says; calls of functions that are no flows are passed there, too",
);
pub const SECRETS: Setting = Setting::value(
    "secrets",
    "DIR",
    "Where secrets are, a file each: what `secrets.NAME` means in a call's headers, query and input",
)
.or("/var/openfaas/secrets");
pub const ONLY: Setting =
    Setting::value("only", "NAME", "The flow that POST / runs: for an engine that is one function");
pub const MAX_RUNS: Setting =
    Setting::value("max_runs", "N", "Most runs of each priority that this engine has in hand at once").or("2000");
pub const MAX_VALUE_BYTES: Setting =
    Setting::value("max_value_bytes", "BYTES", "Largest input or output of a node; a larger one is refused with 413")
        .or("1GiB");
pub const FLOW_TARGET: Setting = Setting::value("target", "URL", "The engine").or("http://127.0.0.1:8080");
pub const FLOW_NAME: Setting = Setting::value("flow", "NAME", "List runs of this flow only");
pub const FLOW_STATUS: Setting = Setting::value("status", "WORD", "List runs that stand so only: running, failed, …");
pub const FROM: Setting =
    Setting::value("from", "NODE", "From which node on a run is tried again (default: what failed)");
pub const UNDO: Setting = Setting::switch("undo", "Take back what the cancelled run has done");
