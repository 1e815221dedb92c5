//! Statuses and headers, in words.

/// Statuses that say that something went wrong, the class that the body names, and when.
pub(super) const STATUSES: [(u16, &str, &str); 17] = [
    (400, "invalid_request", "the request as it is cannot be answered: the message names the field, header or byte"),
    (401, "unauthenticated", "the door asks for keys (`api_keys`), and the request brings none that it knows"),
    (
        404,
        "invalid_request",
        "there is nothing at this path, or it is at the other address, where the setting `admin` is set; no durable request has this id",
    ),
    (405, "invalid_request", "another method than the one in Allow"),
    (408, "deadline_exceeded", "the body took too long to arrive"),
    (410, "invalid_request", "the durable request has ended, and its answer is not kept any more"),
    (413, "too_large", "the body, or the conversation laid out"),
    (415, "invalid_request", "a body that is compressed, in parts or of another charset"),
    (421, "misdirected", "another stage's port, or a `manifest` that is not this door's"),
    (422, "invalid_request", "the Idempotency-Key, or the id of a call that is joined, was used for another body"),
    (429, "overloaded", "no room in time, or as many durable requests wait as may (`max_stored`)"),
    (499, "cancelled", "the durable request was cancelled"),
    (500, "device_failed", "a device failed again and again"),
    (500, "internal", "a defect, of the program or of the model's files"),
    (
        501,
        "invalid_request",
        "a body of another transfer encoding than chunks, or what needs a store at a door that has none",
    ),
    (
        503,
        "unavailable",
        "a stage, the broker or the store is missing or full, or this replica loads or is about to end",
    ),
    (
        504,
        "deadline_exceeded",
        "the deadline has passed; where that was spent waiting for a stage or the broker, it is 503",
    ),
];

/// Headers of a request.
pub(super) const ASKED: [(&str, &str); 9] = [
    ("X-Call-Id", "The request's id, for log lines; one is made where it is absent."),
    (
        "X-Timeout",
        "How long the client waits, as Go writes durations: 10s, 1m30s, 500ms. It can shorten the deadline, and not lengthen it.",
    ),
    (
        "traceparent",
        "The trace that the request belongs to, as W3C's Trace Context writes it, for log lines; one begins where it is absent or malformed.",
    ),
    ("Accept", "`text/event-stream` asks for events, as the field `stream` does."),
    ("Prefer", "`respond-async`: the request is kept and answered later; the answer to this one is 202."),
    (
        "Idempotency-Key",
        "A request that brings it again, with the same body, gets the answer of the first: 1 to 255 visible characters.",
    ),
    ("X-Callback-Url", "With `Prefer: respond-async`: where the answer is posted."),
    ("Last-Event-ID", "Of `/requests/ID` as events: the id of the last one that the client has."),
    ("Authorization", "`Bearer KEY`, where the door asks for keys; `X-Api-Key: KEY` says the same."),
];

/// Headers of an answer, and where they are.
pub(super) const ANSWERED: [(&str, &str); 12] = [
    ("X-Call-Id", "The request's id. Absent where the request brought one and accepts events."),
    ("X-Stageline-Request", "The id of the durable request that it is of: `GET /requests/ID` answers it, at any door."),
    ("X-Duration-Seconds", "How long the answer took to be ready. Absent where it is events."),
    ("Retry-After", "With 429 and 503: after how many seconds the same request may be sent again."),
    ("Allow", "With 405: the methods that are taken."),
    ("Location", "With 202: where the answer will be, `/requests/ID`."),
    ("Preference-Applied", "With 202: `respond-async`."),
    ("WWW-Authenticate", "With 401: `Bearer`."),
    ("Accept-Encoding", "With 415: `identity`."),
    ("X-OpenFaaS-Internal", "With 429: tells OpenFaaS' queue that the function is full, and not broken."),
    ("Cache-Control", "With events: `no-cache`."),
    ("X-Accel-Buffering", "With events: `no`, which has proxies pass each on at once."),
];
